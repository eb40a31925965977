"""What a run is told: command line, settings, and the objects made of them."""
