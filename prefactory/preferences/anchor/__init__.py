"""The outside opinion that ships: a scorer of helpfulness, one of harmlessness, and a gate.

Helpfulness and harmlessness pull in opposite directions: a scorer of one, asked about right labels
of the other, says what it says of inverted labels of its own. So the gate first asks of what kind
the prompts are, and chooses the expert for a data set or a source as a whole, never for a row (our
design). `README.md` beside this file is the card: training sets, licences, held-out figures.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import expit

from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures.calibration import Floats
from prefactory.measures.languages import languages
from prefactory.preferences.clustered import Ints
from prefactory.preferences.features import LENGTH, Answers, Embed
from prefactory.preferences.scorer import Scorer
from prefactory.preferences.verdict import Opinion, judge
from prefactory.tables import last_user_text, text_of

FOLDER = Path(__file__).parent
GATE, FACTS = "gate.safetensors", "anchor.json"
EXPERTS = ("helpfulness", "harmlessness")
MOST = 0.6
"""The share of harmless-kind prompts from which a data set is judged by that expert."""
TAIL = 800
"""Last characters of the conversation that the gate reads."""
ENGLISH = 0.5
"""With a smaller share of English prompts the anchor, which has seen no others, says nothing."""
ENCODER = Encoder()

Expert = Literal["helpfulness", "harmlessness"]


@dataclass(frozen=True)
class Anchor:
    """Two experts, the gate between them, and the prompts that they were trained on.

    Attributes:
        experts: by name.
        gate: Float64[2d] on `20 * ([e(last user message), e(end of the conversation)] - mean)`.
        mean: Float64[2d].
        intercept: of the gate.
        seen: UInt64, sorted: first 16 hex digits of the digests of training prompts' groups
            (`catalog.splits.group_key`).
        facts: what is on the card.
    """

    experts: dict[str, Scorer]
    gate: Floats
    mean: Floats
    intercept: float
    seen: NDArray[np.uint64]
    facts: dict[str, Any]

    def harmless_kind(self, prompts: pl.Series, embed: Embed) -> Floats:
        """P(each prompt is of the harmless kind), Float64[n]."""
        features = gate_features(prompts, embed)
        found: Floats = expit(20 * (features - self.mean) @ self.gate + self.intercept)
        return found

    def unseen(self, groups: pl.Series) -> NDArray[np.bool_]:
        """Which rows, by the digest of their prompt's group, the anchor was not trained on."""
        return ~np.isin(short_keys(groups), self.seen)


def short_keys(groups: pl.Series) -> NDArray[np.uint64]:
    """The first 16 hex digits of digests, as numbers."""
    return np.array([int(g[:16], 16) for g in groups], np.uint64)


def gate_features(prompts: pl.Series, embed: Embed) -> Floats:
    """`[e(last user message), e(last 800 characters of the conversation)]`, Float64[n, 2d]."""
    table = prompts.alias("prompt").to_frame()
    texts = table.select(
        last=last_user_text(pl.col("prompt")),
        tail=text_of(pl.col("prompt")).fill_null("").str.tail(TAIL),
    )
    parts = [np.asarray(embed(ENCODER, texts[c]), np.float64) for c in texts.columns]
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=1)
def load(folder: Path = FOLDER) -> Anchor:
    """The anchor that ships, or one that `python -m benchmarks.train_anchor` wrote elsewhere.

    Raises:
        ConfigError: the folder holds no anchor.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / GATE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no anchor: {error}") from error
    experts = {name: Scorer.load(folder / name, any_precision=True) for name in EXPERTS}
    gate, mean, intercept = (tensors[k] for k in ("weights", "mean", "intercept"))
    return Anchor(experts, gate, mean, float(intercept[0]), tensors["seen"], facts)


@lru_cache(maxsize=1)
def digest(folder: Path = FOLDER) -> str:
    """Digest of all that decides an opinion: one that was trained again is another anchor."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()


@dataclass(frozen=True)
class SourceOpinion:
    """What the anchor says of the pairs of one source.

    Attributes:
        source: its name.
        expert: which expert was asked; None if neither holds the declared objective.
        harmless_kind: share of prompts of the harmless kind; None if it was not asked for.
        english: share of prompts in English, of those with letters; None if it was not asked for.
        seen: rows that were left out because the anchor was trained on their prompts.
        opinion: of the others.
    """

    source: str
    expert: str | None
    harmless_kind: float | None
    english: float | None
    seen: int
    opinion: Opinion

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source,
            "expert": self.expert,
            "harmless_kind": self.harmless_kind,
            "english": self.english,
            "seen": self.seen,
            **self.opinion.as_dict(),
        }


@dataclass(frozen=True)
class PromptFacts:
    """What must be known of each prompt to choose an expert.

    Attributes:
        harmless: P(of the harmless kind), Float64[n].
        english: 1 where the prompt is in English, 0 where in another language, NaN without letters.
        unseen: Bool[n], the anchor was not trained on it.
        source: String, length n.
    """

    harmless: Floats
    english: Floats
    unseen: NDArray[np.bool_]
    source: pl.Series


def english(prompts: pl.Series) -> Floats:
    """1 where the last user message is in English, 0 elsewhere, NaN without letters: Float64[n]."""
    texts = prompts.alias("prompt").to_frame().select(last_user_text(pl.col("prompt"))).to_series()
    found = (languages(texts) == "en").cast(pl.Float64)
    return found.fill_null(np.nan).to_numpy()


def ask(
    anchor: Anchor,
    prompts: PromptFacts,
    chosen: Answers,
    rejected: Answers,
    clusters: Ints,
    objective: str | None = None,
) -> tuple[Floats, list[SourceOpinion]]:
    """Ask the anchor about labels, source by source.

    Args:
        anchor: see `load`.
        prompts: of the pairs.
        chosen: features of the chosen answers, with vectors of `ENCODER`.
        rejected: of the rejected ones.
        clusters: which rows belong together, Int64[n].
        objective: what the labels are declared to mean; None lets the gate choose the expert, and
            one that is neither `helpfulness` nor `harmlessness` leaves the anchor without opinion.

    Returns:
        Margins for each pair as labelled, NaN where the anchor has no opinion or has seen the
        prompt, and what it says of each source, by name.
    """
    margins = np.full(len(clusters), np.nan)
    gaps = {
        name: scorer.score_answers(chosen) - scorer.score_answers(rejected)
        for name, scorer in anchor.experts.items()
    }
    length = (chosen.statistics[LENGTH] - rejected.statistics[LENGTH]).to_numpy()
    found = []
    for source, at in _sources(prompts.source):
        kind = float((prompts.harmless[at] > 0.5).mean())
        known = prompts.english[at][~np.isnan(prompts.english[at])]
        share = float(known.mean()) if len(known) else 0.0
        expert = objective or (EXPERTS[1] if kind >= MOST else EXPERTS[0])
        kept = at[prompts.unseen[at]]
        if expert in gaps and share >= ENGLISH:
            margins[kept] = gaps[expert][kept]
        opinion = judge(margins[kept], length[kept], clusters[kept])
        name = expert if expert in gaps else None
        found.append(SourceOpinion(source, name, kind, share, len(at) - len(kept), opinion))
    return margins, found


def ask_score(
    margins: Floats, length: Floats, source: pl.Series, clusters: Ints, name: str
) -> tuple[Floats, list[SourceOpinion]]:
    """Take any score's margins as the outside opinion, source by source; see `ask`.

    Args:
        margins: of the score for each pair as labelled, Float64[n], NaN where there is none.
        length: log length of chosen minus that of rejected, Float64[n].
        source: String, length n.
        clusters: Int64[n].
        name: of the score.
    """
    found = [
        SourceOpinion(one, name, None, None, 0, judge(margins[at], length[at], clusters[at]))
        for one, at in _sources(source)
    ]
    return margins, found


def _sources(source: pl.Series) -> list[tuple[str, Ints]]:
    """Names of sources, sorted, with the places of their rows."""
    names = source.fill_null("")
    return [(n, np.flatnonzero((names == n).to_numpy())) for n in sorted(names.unique())]
