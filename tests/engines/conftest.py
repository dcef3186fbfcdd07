"""Makes `mock_server` importable, and keeps backoff short."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def quick(monkeypatch):
    """Backoff of milliseconds."""
    from prefactory.engines import serving

    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)
