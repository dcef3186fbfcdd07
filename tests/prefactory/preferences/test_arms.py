import numpy as np
import pytest

from prefactory.preferences.arms import compare, design, said
from prefactory.preferences.stack import Differences, Rows, cross_fit


def margins(z, clusters, seed=0):
    rows = Rows.of(Differences(np.zeros((len(z), 0)), z), clusters)
    return cross_fit(rows, "statistics", seed).margins


def test_on_pure_noise_a_nested_selection_gains_nothing_and_one_over_all_rows_gains_points():
    nested, once = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        z, clusters = rng.normal(size=(500, 60)), np.arange(500)
        data, judged = Differences(np.zeros((500, 0)), z), np.ones(500, bool)

        def again(train, z=z, clusters=clusters):
            signs = np.zeros(len(z))
            found = margins(z[train], clusters[train], 7)
            signs[train] = found > np.quantile(found, 0.3)
            return signs

        whole = margins(z, clusters, 7)
        fixed = (whole > np.quantile(whole, 0.3)).astype(float)
        nested.append(compare(data, clusters, again, judged, partitions=1))
        once.append(compare(data, clusters, lambda train, f=fixed: f, judged, partitions=1))
    assert abs(np.mean([g.against_all.value for g in nested])) < 0.025
    assert np.mean([g.against_all.value for g in once]) > 0.04
    assert once[0].kept == pytest.approx(0.7, abs=0.01)


def test_dropping_wrong_labels_gains_and_turning_them_round_gains_more():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(900, 12)) + 0.35 * (np.arange(12) < 4)
    wrong = rng.random(900) < 0.35
    data = Differences(np.zeros((900, 0)), np.where(wrong[:, None], -z, z))
    clusters, right = np.arange(900) // 2, ~wrong
    dropped = compare(data, clusters, lambda train: right.astype(float), right, partitions=2)
    turned = compare(data, clusters, lambda train: np.where(right, 1.0, -1.0), right, partitions=2)
    assert dropped.against_all.low > 0
    assert turned.against_all.value >= dropped.against_all.value - 0.01
    assert turned.kept == 1.0
    assert dropped.visible == pytest.approx(2.8 * dropped.against_all.se)
    text = said(dropped, nested=False)
    assert text.startswith("Kept 66% of the pairs: +")
    assert "random ones (" in text
    assert "not nested: optimistic; a gain below" in text
    assert "not nested" not in said(dropped, nested=True)


def test_turning_pairs_round_and_the_order_of_blas_change_nothing():
    rng = np.random.default_rng(1)
    vectors, columns = rng.normal(size=(80, 200)), rng.normal(size=(80, 3))
    z, penalty = design(Differences(vectors, columns))
    assert z.shape == (80, 131)
    assert set(penalty) == {3000.0, 40.0}
    other, _ = design(Differences(-vectors, -columns))
    assert np.abs(z @ z.T - other @ other.T).max() < 1e-8


def test_one_cluster_and_nothing_kept_have_no_gains():
    data = Differences(np.zeros((30, 0)), np.ones((30, 2)))
    every = np.ones(30, bool)
    assert compare(data, np.zeros(30, np.int64), lambda t: t * 1.0, every) is None
    assert compare(data, np.arange(30), lambda t: t * 0.0, every) is None
    same = compare(data, np.arange(30), lambda t: t * 1.0, every)
    assert same.against_all.value == same.against_random.value == 0
