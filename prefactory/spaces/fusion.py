"""One space of several encoders' vectors, by a sigmoid loss over all pairs of them.

EXAONE Path 2.5 brings its modalities into one space by the sigmoid loss (arXiv 2303.15343) over all
pairs of modalities. Here the modalities are K frozen encoders of one text: each gets a linear map,
and two vectors of one text should meet where those of two texts should not. That, its defaults, and
what is done with what is missing are our transfer to text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from prefactory.errors import ConfigError, DataError
from prefactory.extras import package
from prefactory.folders import undamaged
from prefactory.measures.calibration import Floats
from prefactory.spaces.sphere import karcher, unit

STEPS, BATCH, RATE, DECAY = 400, 256, 0.01, 0.01
MANY = 5000
"""Rows from which on the fused space has 64 dimensions, not 32."""
FORMAT = 1
CONFIG, WEIGHTS = "fusion.json", "fusion.safetensors"
Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Fusion:
    """Maps of K encoders into one space.

    Attributes:
        means: of each encoder's training vectors, Float64[d_k].
        scales: root mean square of all their centred entries.
        maps: Float64[d_k, m].
        how: `mean` of the mapped unit vectors, or `sphere`, their mean on the sphere (CM3's slerp
            for two).
        loss: mean loss at the first and at the last step.
    """

    means: tuple[Floats, ...]
    scales: tuple[float, ...]
    maps: tuple[Floats, ...]
    how: str = "mean"
    loss: tuple[float, float] = (math.nan, math.nan)

    @property
    def dim(self) -> int:
        """Numbers of a fused vector, m."""
        return int(self.maps[0].shape[1])

    def mapped(self, k: int, vectors: Vectors) -> Floats:
        """Vectors of encoder k in the common space: unit, Float64[n, m]; zeros stay zeros."""
        centred = (np.asarray(vectors, np.float64) - self.means[k]) / self.scales[k]
        found = unit(np.einsum("nd,dm->nm", centred, self.maps[k]))  # row by row, in any company
        found[~np.asarray(vectors).any(axis=1)] = 0.0
        return found

    def __call__(
        self, vectors: Sequence[Vectors | None]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Fuse the vectors of n texts.

        Args:
            vectors: Float[n, d_k] of each encoder; None where an encoder has none, a row of zeros
                where it has none of a text.

        Returns:
            Float32[n, m] of unit length, and which rows lack an encoder: those are the mean of the
            others, and zeros where there is none.

        Raises:
            ConfigError: there are other encoders, or vectors of another length, than were fused.
        """
        given = [(k, v) for k, v in enumerate(vectors) if v is not None]
        if len(vectors) != len(self.maps) or not given:
            raise ConfigError(f"{len(self.maps)} encoders were fused, and {len(given)} are given")
        for k, v in given:
            if v.shape[1] != len(self.means[k]):
                raise ConfigError(
                    f"encoder {k + 1} gives {v.shape[1]} numbers; {len(self.means[k])} were fused"
                )
        parts = [self.mapped(k, v) for k, v in given]
        there = np.stack([p.any(axis=1) for p in parts])
        lacking = (there.sum(axis=0) < len(self.maps)) | (len(given) < len(self.maps))
        fused = unit(sum(parts, np.zeros_like(parts[0])))
        if self.how == "sphere":
            whole = there.all(axis=0)
            fused[whole] = karcher([p[whole] for p in parts], [1.0] * len(parts))
        return fused.astype(np.float32), lacking

    def save(self, folder: Path, encoders: Sequence[Any], about: dict[str, Any]) -> None:
        """Write `fusion.json` and `fusion.safetensors`; the same fusion gives the same bytes.

        Args:
            folder: there already.
            encoders: plain data of each encoder, with its `fingerprint`.
            about: what it was fitted on and what came of it, as plain data.
        """
        tensors = {f"mean.{k}": m for k, m in enumerate(self.means)}
        tensors |= {f"map.{k}": np.ascontiguousarray(m) for k, m in enumerate(self.maps)}
        save_file({**tensors, "scales": np.array(self.scales)}, folder / WEIGHTS)
        config = {"format": FORMAT, "how": self.how, "encoders": list(encoders), "about": about}
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Fusion, list[Any]]:
        """Read a fusion and its encoders.

        Raises:
            ConfigError: the folder holds none.
        """
        undamaged(folder)
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            tensors = load_file(folder / WEIGHTS)
            if config["format"] != FORMAT:
                raise ConfigError(f"{folder} has format {config['format']}; this reads {FORMAT}")
            count = len(config["encoders"])
            means, maps = (
                tuple(tensors[f"{n}.{k}"] for k in range(count)) for n in ("mean", "map")
            )
            scales = tuple(float(s) for s in tensors["scales"])
            return cls(means, scales, maps, str(config["how"])), list(config["encoders"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{folder} holds no fusion of encoders: {error}") from error


def all_pairs_loss(mapped: Sequence[Any], t: Any, b: Any, masked: Any = None) -> Any:  # noqa: ANN401
    """Mean over all pairs of encoders of `(1/B) sum_ij softplus(-y_ij (t u_ai . u_cj + b))`.

    Args:
        mapped: K torch tensors [B, m] of unit rows.
        t: temperature, above 0.
        b: bias.
        masked: Bool[B, B]: cells that count nothing, those of two texts of one cluster.
    """
    torch = package("torch")
    size = len(mapped[0])
    sign = 2 * torch.eye(size, dtype=mapped[0].dtype) - 1
    total = 0.0
    for a in range(len(mapped)):
        for c in range(a + 1, len(mapped)):
            cells = torch.nn.functional.softplus(-sign * (t * mapped[a] @ mapped[c].T + b))
            cells = cells if masked is None else cells.masked_fill(masked, 0.0)
            total = total + cells.sum() / size
    return total / (len(mapped) * (len(mapped) - 1) / 2)


def fit(
    vectors: Sequence[Vectors],
    cluster: NDArray[Any],
    dim: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Fusion:
    """Fit the maps, on one thread, so that a seed gives the same bytes on a machine.

    Args:
        vectors: K times Float[n, d_k] of the same texts.
        cluster: which texts are near copies or answers of one prompt, length n: that two of
            them differ is not learnt.
        dim: of the common space, m; None: 32, from 5,000 rows on 64.
        steps: of AdamW, whose rate falls from .01 to 0 as a cosine.
        seed: of the maps' first values and of the batches.

    Raises:
        ConfigError: there is one encoder only.
        DataError: there are fewer than 4 m texts.
    """
    n = len(cluster)
    m = dim or (32 if n < MANY else 64)
    if len(vectors) < 2:
        raise ConfigError("a fusion takes two encoders or more")
    if n < 4 * m:
        raise DataError(f"a fusion into {m} dimensions takes {4 * m} texts, and there are {n}")
    torch = package("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _fit(vectors, cluster, m, steps, seed)
    finally:
        torch.set_num_threads(threads)


def _fit(
    vectors: Sequence[Vectors], cluster: NDArray[Any], m: int, steps: int, seed: int
) -> Fusion:
    torch = package("torch")
    rng = np.random.default_rng(seed)
    means = tuple(np.asarray(v, np.float64).mean(axis=0) for v in vectors)
    centred = [np.asarray(v, np.float64) - mean for v, mean in zip(vectors, means, strict=True)]
    scales = tuple(float(np.sqrt((x**2).mean())) or 1.0 for x in centred)
    inputs = [torch.from_numpy(x / s) for x, s in zip(centred, scales, strict=True)]
    maps = [
        torch.tensor(rng.normal(size=(x.shape[1], m)) / math.sqrt(x.shape[1]), requires_grad=True)
        for x in inputs
    ]
    log_t = torch.tensor(math.log(10.0), dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    groups = [{"params": maps, "weight_decay": DECAY}, {"params": [log_t, bias], "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    codes = torch.from_numpy(np.unique(cluster, return_inverse=True)[1])
    n, size = len(cluster), min(BATCH, len(cluster))
    losses = []
    for _ in range(steps):
        rows = torch.from_numpy(rng.choice(n, size, replace=False))
        same = codes[rows][:, None] == codes[rows]
        same.fill_diagonal_(False)
        mapped = [
            torch.nn.functional.normalize(x[rows] @ w, dim=1)
            for x, w in zip(inputs, maps, strict=True)
        ]
        loss = all_pairs_loss(mapped, log_t.exp(), bias, same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    found = tuple(w.detach().numpy().copy() for w in maps)
    return Fusion(means, scales, found, "mean", (losses[0], losses[-1]))
