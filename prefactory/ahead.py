"""Work that threads do ahead of its use, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def in_order(items: Iterator[T], work: Callable[[T], R], ahead: int) -> Iterator[R]:
    """`map(work, items)` in threads, in order.

    Args:
        items: drawn in a thread as well, one at a time.
        work: what is done with each.
        ahead: results that are made before they are asked for; the bound on memory. 0: no threads.
    """
    if ahead < 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(ahead + 1)
    waiting: deque[Future[R]] = deque()
    try:
        drawn = pool.submit(next, items, _END)
        while (item := drawn.result()) is not _END:
            waiting.append(pool.submit(work, cast("T", item)))
            drawn = pool.submit(next, items, _END)
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
