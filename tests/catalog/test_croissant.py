"""The Croissant metadata of a version, read by MLCommons' own library."""

import mlcroissant

from tests.catalog.test_diff import publish
from tests.pipelines.conftest import hh_pairs


def test_mlcroissant_reads_our_metadata(tmp_path):
    version = publish(tmp_path, "small", hh_pairs(12))
    dataset = mlcroissant.Dataset(jsonld=str(version.path / "croissant.json"))
    assert not dataset.metadata.issues.errors
    described = {r.id: {f.name for f in r.fields} for r in dataset.metadata.record_sets}
    for name, record in version.manifest.tables.items():
        assert described[name] == set(record.columns)
