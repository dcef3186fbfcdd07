"""Pairs out of scored answers, and the columns that pairs carry into training."""
