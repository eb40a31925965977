"""Tests of what people and monitors see."""
