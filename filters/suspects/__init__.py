"""Pairs whose labels look wrong: dropped, turned round, or marked for review."""
