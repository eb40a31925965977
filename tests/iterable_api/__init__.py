"""Tests of what is sent and what the answers mean."""
