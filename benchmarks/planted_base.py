"""The clean real pairs that `benchmarks.planted_faults` spoils, and the real texts it plants.

Two sets. `hh`: human pairs of hh-rlhf (helpful), answers of unknown models. `uf`: pairs of
UltraFeedback with the overall scores of its judge. Both are cleaned of what the audit itself finds
on them, so zero faults in them is by construction; whether the audit cries wolf is asked of sets
that were not (see `planted_faults.nulls`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from audit import Intake, Loaded, load
from audit.checks.identical import LOPSIDED
from audit.near import near_of
from benchmarks.chain import SHARED
from catalog.splits import group_key
from catalog.versions import Catalog
from filters.contamination.benchmarks import Benchmark, read_benchmark
from filters.contamination.ngrams import NgramIndex
from filters.rules.quality import Quality
from prefactory.context import Context
from prefactory.measures.scripts import NONE, scripts
from prefactory.preferences.damage import damage
from prefactory.tables import SIDES, text_of

SOURCES = {
    "hh": "preference_human/hh_helpful_base.jsonl.gz",
    "uf": "preference_judge/ultrafeedback_binarized.jsonl.gz",
}
BENCHMARKS = {"gsm8k": "verifiable/gsm8k_test.jsonl.gz", "truthfulqa": "verifiable/truthfulqa.csv"}
HELD_OUT = 0.3
ASPECTS = ("honesty", "truthfulness", "instruction_following")
"""Made up for `uf`: its overall score and a little noise."""
CLEAN_INTAKE = Intake(name="planted", license="mit")


@dataclass(frozen=True)
class Texts:
    """Real texts to plant.

    Attributes:
        refusals: answers to harmless prompts that people judged full refusals (XSTest).
        chinese: prompts in Chinese (Flames).
        gsm8k, truthfulqa: questions of the benchmarks.
        reworded: rewordings of GSM8K questions by a model (llm-decontaminator).
        words: words of the clean set, to draw replacements from.
    """

    refusals: list[str] = field(default_factory=list)
    chinese: list[str] = field(default_factory=list)
    gsm8k: list[str] = field(default_factory=list)
    truthfulqa: list[str] = field(default_factory=list)
    reworded: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def against() -> tuple[Benchmark, ...]:
    """The benchmarks that the audit is told of."""
    return tuple(read_benchmark(str(SHARED / path)) for path in BENCHMARKS.values())


def raw(name: str) -> Loaded:
    """A set as it is."""
    return load(str(SHARED / SOURCES[name]), Catalog(root=Path("none")))


def clean(name: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """A set without what the audit finds on it, and the number of rows that left by reason.

    Every row gets what some faults need: models by coin (`strong`, `weak`, equally good), the place
    in which its answers were shown by coin, and a split by prompt.
    """
    table = raw(name).table
    left: dict[str, int] = {}
    for reason, bad in (
        ("damaged", _damaged), ("lopsided", _lopsided), ("other script", _script),
        ("contaminated", _contaminated), ("repeated answer", _repeated), ("tie", _tied),
        ("roles repeat", _odd), ("near-copy of a prompt", _near),
    ):  # fmt: skip
        mask = bad(table)
        left[reason] = int(mask.sum())
        table = table.filter(~mask)
    return dressed(table), left


def dressed(table: pl.DataFrame) -> pl.DataFrame:
    """Add models, places and splits drawn by pair id, and a source to every row."""
    ctx = Context(7, "planted")
    coin, place = (ctx.uniform(table["pair_id"], salt) < 0.5 for salt in ("model", "place"))
    groups = table.select(group=group_key(pl.col("prompt")).cast(pl.String))["group"]
    held = ctx.uniform(groups, "split") < HELD_OUT
    models = (pl.when(coin).then(pl.lit(a)).otherwise(pl.lit(b)) for a, b in _BOTH)
    if f"{SIDES[0]}_score_overall" in table.columns:
        table = _with_aspects(table, ctx)
    return table.with_columns(
        *(m.alias(f"{side}_model") for m, side in zip(models, SIDES, strict=True)),
        chosen_position=pl.when(place).then(1).otherwise(2),
        rejected_position=pl.when(place).then(2).otherwise(1),
        split=pl.when(held).then(pl.lit("test")).otherwise(pl.lit("train")),
    )


def _with_aspects(table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """Add the margin, and aspects that follow the overall score within one point."""
    overall = {side: pl.col(f"{side}_score_overall") for side in SIDES}
    return table.with_columns(
        *(
            (overall[side] + 2 * ctx.uniform(table[f"{side}_id"], aspect) - 1)
            .round()
            .clip(1, 10)
            .alias(f"{side}_score_{aspect}")
            for side in SIDES
            for aspect in ASPECTS
        ),
        margin=overall["chosen"] - overall["rejected"],
    )


_BOTH = (("strong", "weak"), ("weak", "strong"))


def texts(table: pl.DataFrame) -> Texts:
    """Real texts to plant, none of which is made up here."""
    with gzip.open(SHARED / "values/xstest_safe_completions.csv.gz", "rt", encoding="utf-8") as f:
        judged = list(csv.DictReader(io.StringIO(f.read())))
    refusals = [r["completion"] for r in judged if r["final_label"] == "2_full_refusal"]
    with (SHARED / "values/flames_prompts.jsonl").open(encoding="utf-8") as file:
        chinese = [json.loads(line)["prompt"] for line in file]
    with gzip.open(SHARED / "dedup/benchmark_rephrasings.jsonl.gz", "rt", encoding="utf-8") as file:
        reworded = [json.loads(line) for line in file]
    questions = {n: b.texts.to_list() for n, b in zip(BENCHMARKS, against(), strict=True)}
    words = _text(table, "chosen").str.extract_all(r"[A-Za-z]{3,}").explode().drop_nulls()
    return Texts(
        sorted(set(refusals)),
        chinese,
        questions["gsm8k"],
        questions["truthfulqa"],
        [_question(r["text"]) for r in reworded if _of_gsm8k(r)],
        words.to_list(),
    )


def _of_gsm8k(row: dict[str, str]) -> bool:
    return row["benchmark"] == "gsm8k_test" and row["kind"] == "rephrase_en"


def _question(text: str) -> str:
    return text.removeprefix("Question: ").partition("\nAnswer:")[0]


def _text(table: pl.DataFrame, column: str) -> pl.Series:
    return table.select(text_of(pl.col(column)).fill_null("").alias(column))[column]


def _damaged(table: pl.DataFrame) -> pl.Series:
    bad = pl.Series(np.zeros(table.height, dtype=bool))
    for side in SIDES:
        judged = Quality().keep(table.select("prompt", response=side), Context())
        bad = bad | judged["reason"].is_not_null()
    hits = damage(table)["row"].unique()
    return bad | pl.Series(np.arange(table.height)).is_in(hits.implode())


def _lopsided(table: pl.DataFrame) -> pl.Series:
    a, b = (_text(table, side).str.len_chars().cast(pl.Float64) for side in SIDES)
    sizes = pl.DataFrame({"a": a, "b": b})
    ratio = pl.max_horizontal("a", "b") / pl.min_horizontal("a", "b").clip(lower_bound=1)
    return sizes.select(bad=ratio > LOPSIDED)["bad"]


def _script(table: pl.DataFrame) -> pl.Series:
    asked, *given = (scripts(_text(table, c)) for c in ("prompt", *SIDES))
    off = [(asked != side) & ~side.is_in([NONE, "other"]) for side in given]
    return (off[0] | off[1]).fill_null(value=False)


def _contaminated(table: pl.DataFrame) -> pl.Series:
    index = NgramIndex.build(pl.concat([b.texts for b in against()]))
    bad = np.zeros(table.height, dtype=bool)
    for column in ("prompt", "chosen"):
        bad[index.search(_text(table, column), short="line")["text"].to_numpy()] = True
    return pl.Series(bad)


def _repeated(table: pl.DataFrame) -> pl.Series:
    return pl.concat(
        [_text(table, s).str.to_lowercase().rename(s).to_frame() for s in SIDES], how="horizontal"
    ).select(bad=pl.any_horizontal(~pl.col(s).is_first_distinct() for s in SIDES))["bad"]


def _tied(table: pl.DataFrame) -> pl.Series:
    names = [f"{side}_score_overall" for side in SIDES]
    if not set(names) <= set(table.columns):
        return pl.Series(np.zeros(table.height, dtype=bool))
    decided = pl.col(names[0]) > pl.col(names[1])
    return table.select(bad=~decided.fill_null(value=False))["bad"]


def _odd(table: pl.DataFrame) -> pl.Series:
    role = pl.element().struct.field("role")
    twice = pl.col("prompt").list.eval(role == role.shift(1)).list.any()
    return table.select(bad=twice.fill_null(value=False))["bad"]


def _near(table: pl.DataFrame) -> pl.Series:
    """The later row of every two with nearly the same prompt."""
    bad = np.zeros(table.height, dtype=bool)
    bad[near_of({"prompt": _text(table, "prompt")}).edges.right] = True
    return pl.Series(bad)
