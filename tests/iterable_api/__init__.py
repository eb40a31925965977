"""Tests of iterable_api."""
