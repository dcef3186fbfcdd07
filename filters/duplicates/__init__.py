"""Rows that are there already: exact, near, semantic, templates."""
