"""The report of a dataset version: one HTML page that needs no network."""

from prefactory.lazy import lazy_names

_NAMES = {"build": "page", "SAMPLES": "page"}
__all__ = ["SAMPLES", "build"]
__getattr__ = lazy_names(__name__, _NAMES)
