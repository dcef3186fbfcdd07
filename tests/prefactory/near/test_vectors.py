import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.errors import ConfigError
from prefactory.near import vectors as module
from prefactory.near.vectors import (
    blocks,
    cell_pairs,
    cosines,
    near_pairs,
    one_thread,
    similarity,
    unit,
    unit32,
)


def some(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_unit_vectors_have_length_one_and_zero_stays():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]])
    np.testing.assert_array_equal(unit(x), [[0.6, 0.8], [0, 0], [1, 0]])
    np.testing.assert_array_equal(unit(x[0]), [0.6, 0.8])
    assert unit(x.astype(np.float32)).dtype == np.float64
    assert unit32(x).dtype == np.float32
    assert unit(np.zeros((0, 3))).shape == (0, 3)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_length_does_not_change_a_unit_vector(seed, factor):
    x = some(5, 7, seed).astype(np.float64)
    np.testing.assert_allclose(unit(x * factor), unit(x), rtol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(unit(x), axis=1), 1, rtol=1e-15)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 30), st.sampled_from([1, 7, 1024]))
def test_near_pairs_are_those_of_a_loop_whatever_the_block(seed, n, m, block):
    left, right = unit32(some(n, 3, seed)), unit32(some(m, 3, seed + 1))
    expected = [
        (i, j, c)
        for i in range(n)
        for j in range(m)
        if (c := float((left[i].astype(np.float64) * right[j]).sum())) >= 0.5
    ]
    original, module.BLOCK = module.blocks, block
    module.blocks = lambda size, part=block: original(size, part)
    try:
        a, b, cosine = near_pairs(left, right, 0.5)
    finally:
        module.blocks, module.BLOCK = original, 1024
    assert list(zip(a.tolist(), b.tolist(), cosine.tolist(), strict=True)) == expected


def test_a_cosine_at_the_threshold_is_decided_exactly():
    left, right = unit32(some(50, 64)), unit32(some(50, 64, 1))
    exact = cosines(left, right, np.array([3]), np.array([4]))[0]
    for least, there in ((exact, True), (np.nextafter(exact, 2), False)):
        a, b, _ = near_pairs(left, right, least)
        assert ((3, 4) in zip(a.tolist(), b.tolist(), strict=True)) == there


def test_a_zero_vector_is_near_to_none():
    left = np.zeros((1, 3), np.float32)
    assert near_pairs(left, unit32(some(4, 3)), 0.1)[0].size == 0


def test_similarity_does_not_depend_on_the_rows_beside_it():
    left, right = unit(some(300, 33)), unit(some(200, 33, 1))
    whole = similarity(left, right)
    np.testing.assert_allclose(whole, left @ right.T, atol=5.1e-7)
    parts = [similarity(left[part], right) for part in blocks(300, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_blocks_cover_all_rows_once():
    assert blocks(0) == []
    assert [(b.start, b.stop) for b in blocks(5, 2)] == [(0, 2), (2, 4), (4, 5)]


def test_cells_that_are_all_looked_into_miss_nothing():
    pytest.importorskip("faiss")
    left, right = unit32(some(200, 8)), unit32(some(3000, 8, 1))
    a, b, _ = near_pairs(left, right, 0.7)
    found = {
        pair
        for rows, others in cell_pairs(left, right, 0.7 - 1e-4, 10**6)
        for pair in zip(rows.tolist(), others.tolist(), strict=True)
    }
    assert found >= set(zip(a.tolist(), b.tolist(), strict=True)) != set()
    a, b, _ = near_pairs(left, right, 0.7 - 2e-4)
    assert found <= set(zip(a.tolist(), b.tolist(), strict=True))


def test_faiss_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        module.load_faiss()


def test_one_thread_may_be_asked_for_within_itself():
    from threadpoolctl import threadpool_info

    def threads():
        return {p["num_threads"] for p in threadpool_info()}

    before = threads()
    with one_thread():
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before
