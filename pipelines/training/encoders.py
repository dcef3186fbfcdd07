"""The laboratory of encoders: compared on a user's own texts, fused, and changed with care."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from audit import load
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import fingerprint, identity_of
from prefactory.tables import SIDES, text_of

if TYPE_CHECKING:
    from prefactory.spaces.admission import Admission, Candidate
    from prefactory.spaces.change import Change


@dataclass(frozen=True)
class Texts:
    """Answers that encoders are tried on.

    Attributes:
        texts: N distinct answers.
        prompts: the prompt of each: answers to one prompt are a group, and are split together.
    """

    texts: pl.Series
    prompts: pl.Series

    @property
    def digest(self) -> str:
        """Of the texts and their prompts."""
        return fingerprint([self.prompts.to_list(), self.texts.to_list()])


def answers(data: str, settings: Settings, rows: int, seed: int) -> Texts:
    """The answers of pairs or responses, of so many of the prompts that have several.

    Args:
        data: a version, or a file of any layout.
        settings: where versions are.
        rows: prompts, drawn by the seed.
        seed: of the draw.

    Raises:
        DataError: there are no prompts with several answers.
    """
    found = load(data, settings.catalog, None, 0, None).table
    sides = [c for c in (*SIDES, "response") if c in found.columns]
    parts = [found.select("prompt_id", text=text_of(pl.col(side))) for side in sides]
    if not parts:
        raise DataError(f"{data} holds no answers: encoders are tried on pairs or responses")
    every = pl.concat(parts).filter(pl.col("text").str.strip_chars() != "")
    every = every.unique(["prompt_id", "text"]).unique("text", keep="none")
    every = every.filter(pl.len().over("prompt_id") > 1).sort("prompt_id", "text")
    prompts = every["prompt_id"].unique().sort()
    if prompts.len() < 4:
        raise DataError(
            f"{data} has {prompts.len()} prompts with several different answers, and encoders are "
            "tried on more"
        )
    kept = prompts.sample(min(rows, prompts.len()), seed=seed)
    every = every.filter(pl.col("prompt_id").is_in(kept.implode()))
    return Texts(every["text"], every["prompt_id"])


@dataclass(frozen=True)
class Compared:
    """Encoders on a user's texts.

    Attributes:
        data: what they were tried on.
        texts: how many texts.
        admission: candidates and the fusion.
        changes: every two encoders, and what the second keeps of the first.
        folder: of the fused encoder; None if it was not written.
    """

    data: str
    texts: int
    admission: Admission
    changes: tuple[tuple[str, str, Change], ...]
    folder: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "data": self.data, "texts": self.texts, "held_out": self.admission.held_out,
            "accepted": self.admission.accepted, "how": self.admission.fusion.how,
            "candidates": [_plain(c) for c in self.admission.candidates],
            "changes": [
                {"from": a, "to": b, "overlap": c.overlap.as_dict(), "chance": c.chance,
                 "structure": c.structure} for a, b, c in self.changes
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        found = [f"{self.texts} answers of {self.data}, {self.admission.held_out} held out"]
        width = max(len(c.name) for c in self.admission.candidates)
        for c in self.admission.candidates:
            recall = f", recall {c.recall.value:.3f}" if c.recall else ""
            odd = f"odd one out {c.odd_one_out.value:.3f} ± {c.odd_one_out.se:.3f}"
            found.append(f"  {c.name:{width}} {odd}{recall}, uniformity {c.uniformity:.2f}")
            if c.over:
                told = "admitted" if c.accepted else "refused"
                gains = " and ".join(
                    f"{o.value:+.3f} [{o.low:+.3f}, {o.high:+.3f}]" for o in c.over
                )
                found.append(f"  {'':{width}} {told}: odd one out and recall {gains}")
        found += [f"  {a} -> {b}: {said(c)}" for a, b, c in self.changes]
        if self.folder is not None:
            found.append(f"  encoder  {self.folder}")
        return found


def _plain(candidate: Candidate) -> dict[str, Any]:
    row = asdict(candidate)
    row["odd_one_out"] = candidate.odd_one_out.as_dict()
    row["recall"] = candidate.recall.as_dict() if candidate.recall else None
    row["over"] = [o.as_dict() for o in candidate.over] if candidate.over else None
    return row


def said(change: Change) -> str:
    """A sentence about what an encoder keeps of another one's neighbours."""
    o = change.overlap
    return (
        f"{o.value:.3f} [{o.low:.3f}, {o.high:.3f}] of the 10 nearest are kept (chance "
        f"{change.chance:.3f}), STRUCTURE {change.structure:.3f}"
    )


def compare(
    data: str,
    encoders: Sequence[str],
    settings: Settings,
    out: Path | None = None,
    rows: int = 1000,
    dim: int | None = None,
    seed: int = 0,
) -> Compared:
    """Compare encoders on a user's answers, and fuse them.

    Args:
        data: a version or a file.
        encoders: names, folders or hub ids, two or more; the first is the present one.
        settings: where versions and vectors are.
        out: folder for the fused encoder, which is written if it is admitted.
        rows: prompts.
        dim: of the fused space.
        seed: of all draws.

    Raises:
        ConfigError: fewer than two encoders, or one twice.
        DataError: too few texts.
    """
    from prefactory.spaces.admission import admit
    from prefactory.spaces.change import change

    if len(set(encoders)) < 2 or len(set(encoders)) < len(encoders):
        raise ConfigError("name two encoders or more, each once")
    texts = answers(data, settings, rows, seed)
    configs = [Encoder(model=name) for name in encoders]
    embed = embedder(settings)
    vectors = [embed(config, texts.texts) for config in configs]
    group = texts.prompts.to_numpy()
    found = admit(vectors, list(encoders), group, group, dim, seed)
    changes = tuple(
        (encoders[i], encoders[j], change(vectors[i], vectors[j], group))
        for i, j in combinations(range(len(encoders)), 2)
    )
    done = Compared(data, texts.texts.len(), found, changes)
    if out is None or not found.accepted:
        return done
    kept = [
        {
            "encoder": identity_of(c.resolved().model_dump(mode="json")),
            "fingerprint": c.fingerprint(),
        }
        for c in configs
    ]
    with new_folder(out, ConfigError) as folder:
        found.fusion.save(folder, kept, {"digest": texts.digest, **done.as_dict()})
    return Compared(done.data, done.texts, found, changes, out)


def changed(data: str, old: str, new: str, settings: Settings, rows: int, seed: int) -> Change:
    """What a new encoder keeps of the old one's neighbourhoods on a user's answers.

    Args:
        data: a version or a file.
        old: name, folder or hub id of the present encoder.
        new: of the other one.
        settings: where versions and vectors are.
        rows: prompts.
        seed: of their draw.

    Raises:
        DataError: too few texts.
    """
    from prefactory.spaces.change import change

    texts = answers(data, settings, rows, seed)
    embed = embedder(settings)
    one, other = (np.asarray(embed(Encoder(model=m), texts.texts)) for m in (old, new))
    return change(one, other, texts.prompts.to_numpy())
