"""Plans, sends and records many rows at once, and stops in time."""
