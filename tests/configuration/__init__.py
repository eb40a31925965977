"""Tests of the settings and of --check."""
