"""Tests of the delivery of many rows."""
