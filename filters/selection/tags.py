"""Complexity-first diverse sampling over tags (InsTag, arXiv:2308.07074)."""

from __future__ import annotations

import numpy as np

from filters.selection.places import I64, Places


def complexity_first(owner: I64, tag: I64, n: int, places: Places) -> tuple[I64, I64]:
    """Go through rows, most tags first, and take each that brings a tag new in this pass.

    What counts as known is forgotten before each pass. When the rows that are left bring no tag at
    all, they are taken in the same order. Equally many tags: the first row.

    Args:
        owner: Int64[m], the row of each tag.
        tag: Int64[m], numbers of tags from 0; a (row, tag) pair comes once.
        n: rows.
        places: the budget; it is used up.

    Returns:
        Int64[k], the rows in the order taken, and Int64[k], the pass of each, from 1 (0: without
        a tag).
    """
    count = np.bincount(owner, minlength=n)
    order = np.argsort(-count, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    by_rank = np.argsort(rank[owner], kind="stable")
    place, tag = rank[owner][by_rank], tag[by_rank]
    start = np.searchsorted(place, np.arange(n + 1))
    by_tag = np.argsort(tag, kind="stable")
    member = place[by_tag]
    first = np.searchsorted(tag[by_tag], np.arange(int(tag.max(initial=-1)) + 2))
    taken: list[int] = []
    passes: list[int] = []
    number = 0
    while True:
        number += 1
        waiting = np.zeros(n, dtype=bool)
        waiting[rank[places.rows()]] = True
        new = np.where(waiting, count[order], 0)
        known = np.zeros(first.size - 1, dtype=bool)
        before, at = len(taken), 0
        while at < n and (step := int(np.argmax(new[at:] > 0))) + at < n and new[at + step] > 0:
            at += step
            row = int(order[at])
            if places.fit(order[at : at + 1])[0]:
                places.take(row)
                taken.append(row)
                passes.append(number)
                tags = tag[start[at] : start[at + 1]]
                for t in tags[~known[tags]]:
                    known[t] = True
                    np.subtract.at(new, member[first[t] : first[t + 1]], 1)
            at += 1
        if len(taken) == before:
            break
    rest = places.fill(order)
    found = np.concatenate([np.asarray(taken, dtype=np.int64), rest])
    return found, np.concatenate([np.asarray(passes, dtype=np.int64), np.zeros_like(rest)])
