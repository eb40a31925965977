"""Command line, settings, the steps before a run sends anything, and the objects it needs."""
