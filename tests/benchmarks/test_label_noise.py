"""The anchor against sets of labels by people: what it is not trained on, and its verdicts."""

import numpy as np
import pytest

from benchmarks.evidence import SHARED
from benchmarks.label_noise import called_inverted, judged_by
from benchmarks.label_rows import NAMES
from benchmarks.train_anchor import HALVED, MOST, left_out, used
from prefactory.preferences.stack import Differences, Rows
from prefactory.preferences.verdict import judge

NAMED = ("hh helpful", "hh harmless", "tulu", "ultrafeedback", "ukp")
"""Sets whose labels, all turned round, are called inverted."""


@pytest.mark.parametrize("name", [*HALVED, "tulu"])
def test_no_cluster_is_both_trained_on_and_left_out(name):
    clusters = np.random.default_rng(0).integers(0, 900, 1600)
    nothing = np.zeros((1600, 0))
    rows = Rows.of(Differences(nothing, nothing), clusters)
    places, out = used(name, rows), left_out(name, rows)
    assert not set(clusters[places]) & set(clusters[out])
    assert (name in HALVED) == bool(out.any())
    assert len(places) == min(int((~out).sum()), MOST if name != "hh harmless" else 1600)
    kept = clusters % 2 == 0
    assert (clusters[used(name, rows, kept)] % 2 == 0).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"NO SHARED DATA at {SHARED}: set PREFACTORY_SHARED_DATA"
)
@pytest.mark.parametrize("name", NAMES)
def test_no_right_set_is_called_inverted_at_any_size(name):
    margins, length, clusters, _ = judged_by(name)
    assert judge(margins, length, clusters).verdict != "inverted"
    turned = judge(-margins, -length, clusters).verdict
    assert (turned == "inverted") == (name in NAMED)
    for size in (50, 100, 200, 400):
        shares = called_inverted(margins, length, clusters, 200, size)
        assert shares is None or shares[0] == 0, size
