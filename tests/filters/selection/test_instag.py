import numpy as np

from filters.selection.instag import complexity_first
from filters.selection.places import Places


def taken(lists, k):
    names = sorted({t for tags in lists for t in tags})
    owner = np.asarray([i for i, tags in enumerate(lists) for _ in tags], dtype=np.int64)
    tag = np.asarray([names.index(t) for tags in lists for t in tags], dtype=np.int64)
    places = Places.of(k, np.ones(len(lists), dtype=np.int64))
    rows, passes = complexity_first(owner, tag, len(lists), places)
    return rows.tolist(), passes.tolist()


def plain(lists, k):
    """The method as it is told: sort by tag count, pass over the pool, forget, pass again."""
    pool, found = sorted(range(len(lists)), key=lambda i: -len(lists[i])), []
    while pool:
        known, new = set(), []
        for i in pool:
            if not set(lists[i]) <= known:
                known |= set(lists[i])
                new.append(i)
        if not new:
            break
        found += new
        pool = [i for i in pool if i not in new]
    return (found + pool)[:k]


def test_by_hand():
    lists = ["a", "abc", "ab", "d", "abd", ""]
    assert taken(lists, 6) == ([1, 4, 2, 3, 0, 5], [1, 1, 2, 2, 3, 0])
    assert taken(lists, 3) == ([1, 4, 2], [1, 1, 2])


def test_it_is_the_plain_method():
    rng = np.random.default_rng(0)
    for _ in range(30):
        lists = [
            [t for t in "abcdefgh" if rng.random() < 0.3] for _ in range(int(rng.integers(1, 25)))
        ]
        for k in (1, 3, 10, 99):
            assert taken(lists, k)[0] == plain(lists, k)


def test_no_tags_at_all_and_no_rows():
    assert taken(["", "", ""], 2) == ([0, 1], [0, 0])
    assert taken([], 2) == ([], [])
