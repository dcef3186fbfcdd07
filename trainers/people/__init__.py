"""Rewards that differ between people: PAL's ideal points, trained, saved, found for newcomers."""
