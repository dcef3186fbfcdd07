"""Keeps backoff short."""

import pytest


@pytest.fixture
def quick(monkeypatch):
    """Backoff of milliseconds."""
    from prefactory.engines import serving

    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
