"""Many rows at once: planned, sent, recorded, and stopped in time."""
