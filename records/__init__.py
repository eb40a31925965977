"""What a run is, what became of it, and the files that keep it."""
