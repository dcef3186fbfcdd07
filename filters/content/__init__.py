"""Rows that leave for what they say: language, toxicity, refusals, personal data."""
