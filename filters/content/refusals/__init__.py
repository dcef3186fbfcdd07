"""Refusals in 17 languages."""
