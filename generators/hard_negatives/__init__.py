"""Rejected answers that are nearly right."""
