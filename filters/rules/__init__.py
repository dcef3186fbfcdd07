"""Rows that leave by a rule on their texts or numbers."""
