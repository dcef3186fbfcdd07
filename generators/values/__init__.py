"""Dilemmas and stances over systems of values."""
