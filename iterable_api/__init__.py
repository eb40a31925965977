"""Iterable's API: what is sent, how fast, and what the answers mean."""
