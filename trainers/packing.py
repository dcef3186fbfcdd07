"""Packing rows of several domains into windows of one length, in balance (MoI).

Pure functions on token lists. Known to us from reviews of Mixture-of-Instructions only: a packed
sequence holds examples of different domains in equal number, the one with the default system
message first; attention is kept within a chunk of such examples. The rest is our choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefactory.errors import ConfigError

Mode = Literal["row", "chunk", "none"]
Use = Literal["sft", "dpo", "reward"]

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

PAD = -1
"""Row and chunk id of padding."""


@dataclass(frozen=True)
class Packed:
    """Windows of tokens.

    Attributes:
        input_ids: Int32[B, L]; `pad_id` where there is no token.
        position_ids: Int32[B, L], from 0 in each row; 0 on padding.
        row_ids: Int32[B, L], place of the row in the input; -1 on padding.
        chunk_ids: Int32[B, L], number of the chunk; -1 on padding.
        truncated: rows that were longer than a window and lost their beginning, rising.
        uses: how often each row was packed, Int32[N]; above 1 where a small domain came again, 0
            for an empty row.
    """

    input_ids: Ints
    position_ids: Ints
    row_ids: Ints
    chunk_ids: Ints
    truncated: tuple[int, ...]
    uses: Ints

    @property
    def repeated(self) -> tuple[int, ...]:
        """Rows that were packed more than once, rising."""
        return tuple(np.flatnonzero(self.uses > 1).tolist())

    @property
    def filled(self) -> float:
        """Share of places with a token, 0 to 1 (0 without any window)."""
        return float((self.row_ids != PAD).mean()) if self.row_ids.size else 0.0


def pack_balanced(
    rows: Sequence[Sequence[int]],
    domains: Sequence[str],
    seq_len: int,
    chunk: int | None = None,
    default: str = "default",
    repeats: int = 3,
    seed: int = 0,
    pad_id: int = 0,
) -> Packed:
    """Pack rows into windows so that each chunk has one row of every domain.

    Chunks are built by turns: a row with the default system message first (domain `default`), then
    one of each other domain in random order, up to `chunk` rows and `seq_len` tokens; what does not
    fit opens the next chunk. Chunks, longest first, go into the first window with room. When a
    domain has no row left it starts again, up to `repeats` times, as long as any domain still has
    rows of its first time; then it leaves the rotation. So every row is there at least once.

    Args:
        rows: N lists of tokens; empty ones are left out.
        domains: of each row.
        seq_len: tokens of a window; a longer row loses its beginning.
        chunk: most rows of a chunk; None: one per domain.
        default: the domain that comes first.
        repeats: how often a domain may start again.
        seed: of all shuffles.
        pad_id: token of empty places.

    Returns:
        Windows, in the order in which they were opened.

    Raises:
        ConfigError: the lengths differ, or a number makes no sense.
    """
    problems = [
        text
        for wrong, text in (
            (len(rows) != len(domains), f"{len(rows)} rows but {len(domains)} domains"),
            (seq_len < 1, f"seq_len={seq_len}: a window needs a token at least"),
            (chunk is not None and chunk < 1, f"chunk={chunk}: a chunk needs a row at least"),
            (repeats < 0, f"repeats={repeats}: at least 0"),
        )
        if wrong
    ]
    if problems:
        raise ConfigError(problems)
    lengths = np.array([min(len(row), seq_len) for row in rows], dtype=np.int64)
    turns = _turns(lengths, domains, default, repeats, np.random.default_rng(seed))
    chunks = [part for turn in turns for part in _chunks_of(turn, lengths, seq_len, chunk)]
    windows = _windows([int(lengths[c].sum()) for c in chunks], seq_len)
    return _filled(rows, chunks, windows, seq_len, pad_id)


def _turns(
    lengths: NDArray[np.int64],
    domains: Sequence[str],
    default: str,
    repeats: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """One row of each domain by turns, the default first, until every row was there."""
    mine: dict[str, list[int]] = {}
    for i, domain in enumerate(domains):
        if lengths[i]:
            mine.setdefault(domain, []).append(i)
    queues = {d: deque(rng.permutation(mine[d]).tolist()) for d in sorted(mine)}
    left = dict.fromkeys(queues, repeats)
    fresh = {d: len(q) for d, q in queues.items()}
    turns = []
    while any(fresh.values()):
        others = [d for d in queues if d != default]
        order = [others[i] for i in rng.permutation(len(others))]
        turn = []
        for domain in [default, *order] if default in queues else order:
            if not queues[domain]:
                if not left[domain]:
                    del queues[domain]
                    continue
                left[domain] -= 1
                queues[domain].extend(rng.permutation(mine[domain]).tolist())
            turn.append(queues[domain].popleft())
            fresh[domain] = max(0, fresh[domain] - 1)
        turns.append(turn)
    return turns


def _chunks_of(
    turn: list[int], lengths: NDArray[np.int64], seq_len: int, most: int | None
) -> list[list[int]]:
    """Cut a turn into chunks that fit a window."""
    chunks: list[list[int]] = []
    room = 0
    for row in turn:
        if not chunks or lengths[row] > room or len(chunks[-1]) == most:
            chunks.append([])
            room = seq_len
        chunks[-1].append(row)
        room -= int(lengths[row])
    return chunks


def _windows(sizes: list[int], seq_len: int) -> list[list[int]]:
    """First fit decreasing: chunks of each window, in the order in which they were put."""
    windows: list[list[int]] = []
    room = _Room(len(sizes), seq_len)
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        window = room.take(sizes[number])
        if window == len(windows):
            windows.append([])
        windows[window].append(number)
    return windows


class _Room:
    """What is free in each window: finds the first with enough room in O(log n)."""

    def __init__(self, most: int, seq_len: int) -> None:
        self._size = 1 << max(0, most - 1).bit_length()
        self._tree = np.full(2 * self._size, seq_len, dtype=np.int64)

    def take(self, need: int) -> int:
        """Take room in the first window that has it; returns its number."""
        node = 1
        while node < self._size:
            node = 2 * node if self._tree[2 * node] >= need else 2 * node + 1
        self._tree[node] -= need
        window = node - self._size
        while node > 1:
            node //= 2
            self._tree[node] = max(self._tree[2 * node], self._tree[2 * node + 1])
        return window


def _filled(
    rows: Sequence[Sequence[int]],
    chunks: list[list[int]],
    windows: list[list[int]],
    seq_len: int,
    pad_id: int,
) -> Packed:
    shape = (len(windows), seq_len)
    tokens, positions = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    row_ids, chunk_ids = np.full(shape, PAD, np.int32), np.full(shape, PAD, np.int32)
    uses = np.zeros(len(rows), np.int32)
    for b, window in enumerate(windows):
        at = 0
        for number in window:
            for row in chunks[number]:
                kept = rows[row][-seq_len:]
                end = at + len(kept)
                tokens[b, at:end] = kept
                positions[b, at:end] = np.arange(len(kept))
                row_ids[b, at:end] = row
                chunk_ids[b, at:end] = number
                uses[row] += 1
                at = end
    truncated = tuple(i for i, row in enumerate(rows) if len(row) > seq_len)
    return Packed(tokens, positions, row_ids, chunk_ids, truncated, uses)


def attention_mask(packed: Packed, mode: Mode = "row", use: Use = "sft") -> Bools:
    """Which places may look at which: mask(i, j) = j <= i, and both of one row or chunk.

    Args:
        packed: windows.
        mode: `row`: within a row; `chunk`: within a chunk; `none`: everything before.
        use: what is trained. Two answers of a pair in one window would see each other, so `dpo` and
            `reward` take `row` only.

    Returns:
        Bool[B, L, L]; a padding place looks at itself only, so that no softmax is empty. A row that
        stands twice in a window is told apart by its places.

    Raises:
        ConfigError: the mode would let a pair's answers see each other.
    """
    if use != "sft" and mode != "row":
        raise ConfigError(
            f"mode={mode!r} lets rows see each other, which gives a pair's answers away: "
            f"train {use} with mode='row'"
        )
    n = packed.row_ids.shape[1]
    positions = np.arange(n)
    causal = positions[None, :] <= positions[:, None]
    there = packed.row_ids != PAD
    if mode == "row":
        starts = (packed.position_ids == 0) & there
        part = np.where(there, np.cumsum(starts, axis=1), PAD)
    elif mode == "chunk":
        part = packed.chunk_ids
    else:
        part = np.where(there, 0, PAD)
    same = (part[:, :, None] == part[:, None, :]) & there[:, :, None]
    mask: Bools = (same & causal) | np.eye(n, dtype=bool)
    return mask
