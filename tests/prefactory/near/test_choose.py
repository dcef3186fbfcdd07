import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from prefactory.near.choose import greedy, none_beside_kept, one_of_each_cluster, ranks
from prefactory.near.pairs import Edges


def edges(*rows):
    left, right, index = zip(*rows, strict=True) if rows else ((), (), ())
    return Edges(np.array(left, int), np.array(right, int), np.array(index, float))


def listed(choice):
    return list(zip(*(x.tolist() for x in choice), strict=True))


def test_the_best_score_comes_first_then_the_lowest_id():
    ids = pl.Series(["d", "b", "c", "a", "e"])
    score = pl.Series([1.0, None, 2.0, float("nan"), 1.0])
    assert ranks(ids, score).tolist() == [1, 4, 0, 3, 2]
    assert ranks(ids, None).tolist() == [3, 1, 2, 0, 4]
    assert ranks(ids[:0], None).tolist() == []


CHAIN = edges((0, 1, 0.5), (1, 2, 0.6), (2, 3, 0.7))


def test_one_row_of_a_cluster_stays_and_the_link_is_named():
    best_is_2 = np.array([1, 2, 0, 3])
    assert listed(one_of_each_cluster(CHAIN, best_is_2)) == [(0, 2, 1), (1, 2, 2), (3, 2, 2)]
    assert listed(one_of_each_cluster(edges(), np.arange(3))) == []
    assert listed(one_of_each_cluster(edges(), np.arange(0))) == []


def test_no_row_goes_but_beside_a_kept_row():
    assert listed(none_beside_kept(CHAIN, np.arange(4))) == [(1, 0, 0), (3, 2, 2)]
    assert listed(none_beside_kept(edges(), np.arange(0))) == []


def test_equal_rows_count_as_one():
    # 0 and 2 are equal; 1 is near to 0 (so to 2 as well), which is not the best of the three
    near = edges((0, 1, 0.5), (0, 2, 1.0))
    assert listed(none_beside_kept(near, np.array([2, 0, 1]))) == [(0, 1, 1), (2, 1, 1)]
    assert listed(none_beside_kept(near, np.array([2, 1, 0]))) == [(0, 2, 2), (1, 2, 2)]


GRAPH = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda e: e[0] != e[1]))


@given(GRAPH, st.permutations(range(10)))
def test_greedy_is_the_plain_loop(graph, rank):
    rank = np.array(rank)
    kept = []
    beside = np.full(10, -1)
    for row in np.argsort(rank):
        near = [k for k in kept if (k, row) in graph or (row, k) in graph]
        if near:
            beside[row] = near[0]
        else:
            kept.append(row)
    left, right = (np.array([e[i] for e in graph], dtype=np.int64) for i in (0, 1))
    assert greedy(left, right, rank).tolist() == beside.tolist()
