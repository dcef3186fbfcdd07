"""Rows that a benchmark holds."""
