"""Tests of the local Iterable and of the private database."""
