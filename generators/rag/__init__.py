"""Pairs whose answer stands in documents, or does not."""
