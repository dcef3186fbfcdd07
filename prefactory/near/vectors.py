"""Vectors: unit length, cosines, and all pairs with at least some cosine.

The last bits of a matrix product depend on the number of its rows, on threads and on the device.
So a cosine that decides something is either rounded to six digits (`similarity`) or, when products
only find the candidates (`near_pairs`), computed again for that pair alone (`cosines`).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prefactory.errors import ConfigError
from prefactory.near.shingles import I64

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
BLOCK = 1024
"""Rows in work at a time: their temporary arrays fit into the cache of a core."""
BORDER = {"fp32": 1e-4, "bf16": 8e-3}
"""Most that a cosine of unit vectors can be off. In bfloat16 each factor is off by 2**-9 of itself
at most, so by Cauchy and Schwarz the products sum to within 2**-8, the rounded sum to 2**-7.4."""

_one_at_a_time = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP to one thread: last bits depend on how many there are, ours must not.

    The limit belongs to the process, so only one thread holds it at a time.
    """
    from threadpoolctl import threadpool_limits

    with _one_at_a_time, threadpool_limits(1):
        yield


def blocks(n: int, size: int = BLOCK) -> list[slice]:
    """Cut n rows into slices."""
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def lengths(vectors: NDArray[np.floating]) -> Floats:
    """Length of each vector, 1 for a zero one: Float[..., d] -> Float64[..., 1]."""
    square = np.square(vectors, dtype=np.float64)
    length: Floats = np.sqrt(square.sum(axis=-1, keepdims=True))
    return np.where(length > 0, length, 1.0)


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Scale vectors to length 1; a zero vector stays zero: Float[..., d] -> Float64[..., d]."""
    return np.asarray(np.asarray(vectors, dtype=np.float64) / lengths(vectors))


def unit32(vectors: NDArray[np.floating]) -> Vectors:
    """The same in single precision, computed in double: Float32[..., d]."""
    return unit(vectors).astype(np.float32)


def similarity(left: NDArray[np.floating], right: NDArray[np.floating]) -> Floats:
    """Cosines of all pairs of unit vectors, to six digits: [n, d], [m, d] -> Float64[n, m]."""
    product = np.asarray(left, dtype=np.float64) @ np.asarray(right, dtype=np.float64).T
    return np.asarray(product.round(6))


def cosines(left: Vectors, right: Vectors, rows: I64, others: I64) -> Floats:
    """Cosine of some pairs, each summed by itself.

    Args:
        left: Float32[n, d], unit vectors.
        right: Float32[m, d], unit vectors.
        rows: Int64[p], rows of `left`.
        others: Int64[p], rows of `right`.

    Returns:
        Float64[p].
    """
    out = np.empty(rows.size)
    for part in blocks(rows.size, 8192):
        out[part] = (left[rows[part]].astype(np.float64) * right[others[part]]).sum(axis=1)
    return out


def near_pairs(left: Vectors, right: Vectors, least: float) -> tuple[I64, I64, Floats]:
    """All pairs with at least some cosine, decided exactly; the block changes nothing.

    Args:
        left: Float32[n, d], unit vectors (a zero vector has cosine 0 with all).
        right: Float32[m, d].
        least: cosine.

    Returns:
        Rows of `left`, rows of `right` (Int64) and the cosine (Float64), sorted by both rows.
    """
    rows, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in blocks(len(left)):
        a, b = np.nonzero(left[part] @ right.T >= least - BORDER["fp32"])
        rows.append(a + part.start)
        others.append(b)
    a, b = np.concatenate(rows), np.concatenate(others)
    cosine = cosines(left, right, a, b)
    near = cosine >= least
    return a[near], b[near], cosine[near]


def load_faiss() -> ModuleType:
    """Import faiss.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "index: ivf needs faiss: pip install faiss-cpu, or faiss-gpu-cu12 with CUDA; "
            "index: exact needs neither"
        ) from error


def cell_pairs(
    queries: Vectors, base: Vectors, least: float, probes: int
) -> Iterator[tuple[I64, I64]]:
    """Pairs that an inverted file of faiss finds, for very many rows: candidates, some are missed.

    The base is put into about 4 sqrt(m) cells around k-means centres (fixed seed); a query is
    compared with what lies in the `probes` cells nearest to it.

    Args:
        queries: Float32[n, d], unit vectors.
        base: Float32[m, d], m > 0.
        least: cosine, in single precision.
        probes: cells to look into.

    Yields:
        Rows of the queries and of the base, Int64.
    """
    faiss = load_faiss()
    m, d = base.shape
    cells = max(1, min(int(4 * np.sqrt(m)), m // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(base)
    index.add(base)
    index.nprobe = min(probes, cells)
    for part in blocks(len(queries), 1 << 14):
        limits, _, neighbours = index.range_search(np.ascontiguousarray(queries[part]), least)
        rows = part.start + np.repeat(np.arange(limits.size - 1), np.diff(limits).astype(np.int64))
        yield rows, neighbours.astype(np.int64)


def above(product: torch.Tensor, least: float) -> tuple[I64, I64, Floats]:
    """Places of a block of products that are at least some value, and the values; in no order.

    Args:
        product: Float[n, m], on any device.
        least: what a product must reach.
    """
    import torch

    some = torch.nonzero(product.amax(dim=1).float() >= least).flatten()
    if not some.numel():
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    product = product[some].float()
    entries = torch.nonzero(product >= least)
    values = product[entries[:, 0], entries[:, 1]].cpu().numpy()
    return some[entries[:, 0]].cpu().numpy(), entries[:, 1].cpu().numpy(), values
