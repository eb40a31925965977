"""Failures of every kind, played against the real program."""
