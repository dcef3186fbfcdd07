"""Versions made on the spot, and a Hugging Face cache of the test's own."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import pytest

from catalog.publish import publish
from catalog.versions import Catalog
from tests.helpers import many_pairs, one_file, recipe, run


@pytest.fixture
def make(tmp_path):
    """Run a recipe on a table and publish it in the test's catalog."""

    def make(table, *steps, shard_rows=1000, root="catalog", report=None, **head):
        result = run(recipe(*steps, **head), one_file(table), tmp_path / "store", shard_rows)
        return publish(result, Catalog(root=tmp_path / root), report)

    return make


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    """A published version of 60 pairs with scores and a margin. Don't change its files."""
    root = tmp_path_factory.mktemp("session")
    result = run(recipe(license="MIT"), one_file(many_pairs(60)), root / "store", 7)
    return publish(result, Catalog(root=root / "catalog")).version
