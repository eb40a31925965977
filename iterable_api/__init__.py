"""Iterable's API: request bodies, rate limits, HTTP, and the meaning of answers."""
