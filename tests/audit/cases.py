"""Clean little datasets, and ways to spoil them."""

from __future__ import annotations

import numpy as np
import polars as pl

from audit import Intake, Options, audit
from audit.registry import CHECKS
from prefactory.tables import Shape, with_ids
from tests.helpers import pairs, prompts, responses

WORDS = [
    f"{a}{b}"
    for a in ("ri", "sto", "lam", "ora", "qui", "en", "pa", "win", "gar", "sil", "mo", "tes")
    for b in ("ver", "ne", "pit", "nge", "et", "gine", "per", "dow", "den", "vo", "rast", "ul")
]
NO_EMBEDDING = Options(embeddings=False, permutations=200)


def sentence(rng, low=20, high=40):
    return " ".join(rng.choice(WORDS, rng.integers(low, high))) + "."


def rows(n, seed=0):
    """n rows of (prompt, chosen, rejected) whose sides are drawn alike."""
    rng = np.random.default_rng(seed)
    return [(sentence(rng, 9, 14), sentence(rng), sentence(rng)) for _ in range(n)]


def clean(n=300, seed=0, **extra):
    """Pairs without a fault: unknown models, prompts and answers all different."""
    return table(rows(n, seed), **extra)


def table(found, **extra):
    made = pairs(*found, **extra)
    null = pl.lit(None, dtype=pl.String)
    return made.with_columns(chosen_model=null, rejected_model=null)


def kto(n=300, seed=0, spoil=lambda label, text: text):
    """Answers with a label each, true for the first half."""
    found = rows(n, seed)
    made = responses(
        *[(p, spoil(i < n // 2, c)) for i, (p, c, _) in enumerate(found)],
        score_label=[float(i < n // 2) for i in range(n)],
    )
    return made.with_columns(model=pl.lit(None, dtype=pl.String))


def one(name, data, options=NO_EMBEDDING, intake=None):
    """The finding of one check."""
    check = next(c for c in CHECKS if c.name == name)
    return audit(data, options, intake or Intake(license="mit"), checks=[check]).findings[0]


def embed(texts):
    """A stand-in for an encoder: counts of letters, so that like texts have like vectors."""
    letters = [[t.lower().count(c) + 0.1 for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts]
    return np.array(letters, dtype=np.float32).reshape(len(letters), 26)


EMBEDDING = Options(embed=embed, encoder="letters", permutations=200)


def again(data):
    """Make the ids of changed pairs anew."""
    return with_ids(data, Shape.PAIRS)


__all__ = ["EMBEDDING", "NO_EMBEDDING", "again", "clean", "embed", "kto", "one", "prompts", "rows"]
__all__ += ["responses", "sentence", "table"]
