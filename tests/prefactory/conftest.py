"""Hypothesis without a deadline: the first example pays for what is loaded lazily."""

from hypothesis import settings

settings.register_profile("core", deadline=None)
settings.load_profile("core")
