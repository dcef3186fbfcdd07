"""Duplicates by meaning: cosine of vectors, with a guard for polarity."""
