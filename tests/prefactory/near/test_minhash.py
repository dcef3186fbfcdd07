import numpy as np
import polars as pl
import pytest

from prefactory.near.minhash import (
    MOST_HASHES,
    Banding,
    band_keys,
    banding,
    least_agreement,
    signatures,
    sketches,
)
from prefactory.near.shingles import Sets, shingle_sets


def test_known_candidate_probabilities():
    # (b, r) = (24, 10) of text-dedup's default: .14, .50 and .94 at .6, .7 and .8
    found = [Banding(24, 10).recall_at(j) for j in (0.6, 0.7, 0.8)]
    assert found == pytest.approx([0.14, 0.5, 0.94], abs=0.006)


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("recall", [0.5, 0.95, 0.99])
def test_the_banding_finds_what_it_should_with_bands_as_long_as_can_be(threshold, recall):
    cut = banding(threshold, recall)
    assert cut.recall_at(threshold) >= recall - 1e-9
    assert cut.bands * cut.rows <= MOST_HASHES
    longer = cut.rows + 1
    bands = np.log1p(-recall) / np.log1p(-(min(threshold, 1 - 1e-9) ** longer))
    assert np.ceil(bands) * longer > MOST_HASHES or cut.rows == 32


def test_the_default_banding():
    assert banding(0.35, 0.95) == Banding(69, 3)


def random_sets(rng, n, size, shared):
    """Pairs of sets with a Jaccard index of shared / (2 size - shared)."""
    values = rng.integers(0, 2**32, (n, 2 * size - shared), dtype=np.uint32)
    a, b = values[:, :size], values[:, size - shared :]
    rows = np.sort(np.stack([a, b], axis=1).reshape(2 * n, size), axis=1)
    offsets = np.arange(2 * n + 1) * size
    return Sets(rows.ravel(), offsets, np.full(2 * n, size, dtype=np.uint32))


@pytest.mark.parametrize(("size", "shared"), [(30, 10), (100, 50), (100, 90)])
def test_signatures_agree_as_often_as_sets_do(size, shared):
    found = signatures(random_sets(np.random.default_rng(0), 200, size, shared), 128)
    agree = (found[:, ::2] == found[:, 1::2]).mean()
    jaccard = shared / (2 * size - shared)
    error = np.sqrt(jaccard * (1 - jaccard) / (200 * 128))
    assert abs(agree - jaccard) < 4 * error
    spread = (found[:, ::2] == found[:, 1::2]).mean(axis=0).std()
    assert spread == pytest.approx(np.sqrt(jaccard * (1 - jaccard) / 128), rel=0.25)


def test_the_signature_of_a_union_is_the_least():
    sets = shingle_sets(pl.Series(["a b c", "c d e f", "a b c c d e f"]), 1)
    a, b, both = signatures(sets, 64).T
    assert (np.minimum(a, b) == both).all()


def test_a_tag_makes_other_shingles():
    sets = shingle_sets(pl.Series(["one two three four five six"]), 1)
    assert (signatures(sets, 64) == signatures(sets, 64, tag=1)).mean() < 0.2


def test_band_keys_agree_where_all_their_functions_do():
    signature = np.array([[1, 1], [2, 2], [3, 3], [4, 5]], dtype=np.uint32)
    a, b = band_keys(signature, Banding(2, 2))
    assert (a == b).tolist() == [True, False]


def test_the_sieve_lets_nearly_all_pairs_at_the_threshold_through():
    short = sketches(signatures(random_sets(np.random.default_rng(1), 2000, 40, 21), 128))
    agree = (short[::2] == short[1::2]).sum(axis=1)
    assert (agree >= least_agreement(np.array(21 / 59), 128)).all()
    unlike = sketches(signatures(random_sets(np.random.default_rng(2), 2000, 40, 3), 128))
    agree = (unlike[::2] == unlike[1::2]).sum(axis=1)
    assert (agree >= least_agreement(np.array(0.35), 128)).mean() < 0.001
