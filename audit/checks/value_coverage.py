"""Coverage of a value system or a risk taxonomy: rows by node, empty leaves, evenness.

A column is exact; text is rough. With MiniLM the nearest description is the right one of eight for
55 % of the 80 prompts of MT-bench, and at `NEAR` as many plain instructions (16 % of 150 of Alpaca)
as offensive ones (15 % of 150 of hh harmless) come near to a risk of flames5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from audit.check import Check
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Rows, Subject
from catalog.values import ValueSystem, coverage
from filters.rules.length import WORD
from prefactory.near.vectors import unit

KNOWN = 0.5
"""Least share of a column's values that must be nodes of the system for it to be taken."""
NEAR = 0.3
"""Least cosine of a prompt with the description of the node that it is assigned to (ours)."""
WORDS = 2
"""Words of one leaf alone that assign a prompt to it (ours); its whole label does, too."""
BARS, NAMES = 12, 8
_COMMON = (
    r"^(?:"
    r"the|and|that|for|with|are|was|this|you|have|not|what|how|does|can|your|"
    r"from|they|which|who|why|when|there|their|will|would|should|could|about|one|"
    r"ones|own|others|other|people|person|says|something|somebody|than|but|into|"
    r"its|well|it|is|as|of|to|in|or|by|at|an|on|be"
    r")$"
)


@dataclass(frozen=True)
class Assigned:
    """Rows and their nodes.

    Attributes:
        rows: of the table.
        nodes: List(String), ids of nodes of each of these rows; empty where none fits.
        how: who assigned them.
    """

    rows: Rows
    nodes: pl.Series
    how: str


def run(subject: Subject) -> Report:
    """Assign rows to nodes, and count them by node."""
    system = subject.options.values
    if system is None:
        return Report(skipped="no value system or risk taxonomy was named (--values NAME|FILE)")
    found = by_column(subject, system) or by_text(subject, system)
    table = coverage(found.nodes, system)
    leaves = table.filter(pl.col("node").is_in(list(system.leaves)))
    empty = leaves.filter(pl.col("n") == 0)["node"].to_list()
    has = (found.nodes.list.len() > 0).to_numpy()
    metrics = {
        "assigned": share(has, subject.prompts[found.rows]),
        "leaves": Metric(leaves.height, unit="count"),
        "empty_leaves": Metric(len(empty), n=leaves.height, unit="count"),
    }
    for level, entropy in table.unique("level", maintain_order=True).select(
        "level", "entropy"
    ).iter_rows():  # fmt: skip
        metrics[f"evenness:{level}"] = Metric(entropy, n=int(has.sum()))
    for node, n, part in table.select("node", "n", "share").iter_rows():
        metrics[f"node:{node}"] = Metric(part, n=n, unit="share")
    names = [system.by_id[node].label for node in empty]
    unassigned = found.rows[~has]
    return Report(
        headline=f"{100 * has.mean():.0f}% of {found.rows.size:,} prompts have a node of "
        f"{system.system}; {_told(names, leaves.height)}",
        metrics=metrics,
        rows=flagged(unassigned, f"no node of {system.system} fits"),
        charts=(_chart(leaves, system),),
        notes=(
            found.how,
            *((f"Empty leaves: {', '.join(names)}.",) if names else ()),
            "A judge's assignment comes as a column of node ids or labels, better evidence than "
            "text; of a file, --map value_ids=THEIRS brings it along.",
        ),
    )


def by_column(subject: Subject, system: ValueSystem) -> Assigned | None:
    """Nodes by the column whose values name the most of them (id, system:id or label)."""
    ids = _names(system)
    best: tuple[int, str, pl.Series] | None = None
    for name, values in zip(subject.table.columns, subject.table, strict=True):
        lists = values.dtype == pl.List(pl.String)
        if not lists and values.dtype not in (pl.String, pl.Categorical, pl.Enum):
            continue
        column = values if lists else values.cast(pl.String).reshape((-1, 1)).arr.to_list()
        flat = column.rename("v").to_frame().with_row_index("row").explode("v").drop_nulls("v")
        nodes = flat.with_columns(
            pl.col("v").str.strip_chars().str.to_lowercase()
            .str.strip_prefix(f"{system.system}:").replace_strict(ids, default=None)
        )  # fmt: skip
        known = nodes["v"].len() - nodes["v"].null_count()
        if known < max(1, KNOWN * flat.height) or (best and known <= best[0]):
            continue
        best = known, name, _lists(nodes.drop_nulls("v"), subject.height)
    if best is None:
        return None
    how = f"Nodes are those of column {best[1]}; other values of it count as none."
    return Assigned(np.arange(subject.height, dtype=np.int64), best[2], how)


def by_text(subject: Subject, system: ValueSystem) -> Assigned:
    """Nodes by the words of their label and definition, the rest by the nearest description."""
    rows = np.arange(subject.height, dtype=np.int64)
    if subject.options.embeddings:
        rows = subject.sample(rows, subject.options.embed_rows, "texts")
    texts = subject.question.gather(pl.Series(rows))
    hits = by_words(texts, system)
    how = (
        f"{hits['row'].n_unique():,} of {rows.size:,} prompts by words: all words of a leaf's "
        f"label, or {WORDS} of its label and definition that no other leaf has"
    )
    if subject.options.embeddings:
        left = np.setdiff1d(np.arange(rows.size), hits["row"].to_numpy())
        near = _nearest(subject, texts.gather(left), system)
        known = near.is_not_null().to_numpy()
        more = pl.DataFrame({"row": left[known], "v": near.filter(pl.Series(known))})
        hits = pl.concat([hits, more.with_columns(pl.col("row").cast(pl.UInt32))])
        how += (
            f"; {more.height:,} more by the nearest description, with a cosine of {NEAR:g} or more "
            f"({subject.options.encoder}). A leaf that is empty in a sample may have rows"
        )
    how += (
        ". This is rough: of the 80 prompts of MT-bench the nearest of eight descriptions was the "
        "right one for 55%, and as many plain instructions (16%) as offensive ones (15%) come near "
        "to a risk of flames5. Read some rows before you trust it."
    )
    return Assigned(rows, _lists(hits, rows.size), how)


def by_words(texts: pl.Series, system: ValueSystem) -> pl.DataFrame:
    """Hits of leaves by their words: `row` (UInt32) and `v` (id), sorted.

    Words are folded to lower case without a plural s; common ones don't count.
    """
    leaves = [system.by_id[leaf] for leaf in system.leaves]
    frame = pl.DataFrame(
        {
            "v": [n.id for n in leaves],
            "label": [n.label for n in leaves],
            "definition": [n.definition for n in leaves],
        }
    )
    label = _words(frame["label"]).rename({"row": "leaf"}).with_columns(of_label=pl.lit(value=True))
    both = _words(frame["label"] + " " + frame["definition"]).rename({"row": "leaf"})
    both = both.join(label, on=["leaf", "word"], how="left").with_columns(
        pl.col("of_label").fill_null(value=False), alone=pl.len().over("word") == 1
    )
    needs = label.group_by("leaf").agg(label_words=pl.len())
    hits = _words(texts).join(both, on="word").group_by("row", "leaf").agg(
        pl.col("of_label").sum(), pl.col("alone").sum()
    ).join(needs, on="leaf", how="left")  # fmt: skip
    whole = pl.col("of_label") >= pl.col("label_words")
    kept = hits.filter(whole.fill_null(value=False) | (pl.col("alone") >= WORDS))
    ids = frame.with_row_index("leaf").select("leaf", "v")
    return kept.join(ids, on="leaf").select("row", "v").sort("row", "v")


def _words(texts: pl.Series) -> pl.DataFrame:
    """`row` and `word`, each word once a row."""
    words = pl.col("text").fill_null("").str.to_lowercase().str.extract_all(WORD)
    frame = texts.rename("text").to_frame().select(word=words).with_row_index("row")
    frame = frame.explode("word").drop_nulls()
    frame = frame.filter(~pl.col("word").str.contains(_COMMON))
    plural = (pl.col("word").str.len_chars() > 3) & ~pl.col("word").str.ends_with("ss")
    single = pl.when(plural).then(pl.col("word").str.strip_suffix("s")).otherwise(pl.col("word"))
    return frame.with_columns(word=single).unique(maintain_order=True)


def _nearest(subject: Subject, texts: pl.Series, system: ValueSystem) -> pl.Series:
    """The leaf whose description is nearest to each text; null below `NEAR`."""
    if not texts.len():
        return pl.Series([], dtype=pl.String)
    leaves = [system.by_id[leaf] for leaf in system.leaves]
    told = pl.Series([f"{node.label}: {node.definition}".rstrip(": ") for node in leaves])
    cosines = unit(subject.embed(texts)) @ unit(subject.embed(told)).T
    ids = pl.Series(system.leaves).gather(cosines.argmax(axis=1))
    far = pl.Series(cosines.max(axis=1) < NEAR)
    return ids.to_frame("v").select(pl.when(~far).then("v")).to_series()


def _names(system: ValueSystem) -> dict[str, str]:
    """Every name of a node, folded -> its id; a label that two nodes share is none."""
    labels = [node.label.lower() for node in system.nodes]
    named = {
        label: node.id
        for label, node in zip(labels, system.nodes, strict=True)
        if labels.count(label) == 1
    }
    return named | {node.id: node.id for node in system.nodes}


def _lists(hits: pl.DataFrame, height: int) -> pl.Series:
    """Hits (`row`, `v`) as a list per row."""
    rows = pl.DataFrame({"row": pl.int_range(height, dtype=pl.UInt32, eager=True)})
    by_row = hits.group_by("row").agg(pl.col("v").unique().sort())
    joined = rows.join(by_row, on="row", how="left", maintain_order="left")["v"]
    empty = pl.lit([], dtype=pl.List(pl.String))
    return joined.to_frame().select(pl.col("v").cast(pl.List(pl.String)).fill_null(empty))["v"]


def _told(empty: list[str], leaves: int) -> str:
    if not empty:
        return f"each of {leaves:,} leaves has some"
    more = f" and {len(empty) - NAMES:,} more" if len(empty) > NAMES else ""
    return f"{len(empty):,} of {leaves:,} leaves have none: {', '.join(empty[:NAMES])}{more}"


def _chart(leaves: pl.DataFrame, system: ValueSystem) -> Chart:
    table = leaves.with_columns(pl.col("share").fill_null(0.0)).sort(
        "share", descending=True, maintain_order=True
    )
    rows = table.select("node", "share").head(BARS).iter_rows()
    bars = [(system.by_id[node].label, (float(part),)) for node, part in rows]
    if table.height > BARS:
        rest = float(table["share"][BARS:].sum())
        bars.append((f"{table.height - BARS} more", (rest,)))
    return Chart("bars", f"Prompts by {system.levels[-1]}", tuple(bars))


CHECK = Check(
    name="value_coverage",
    title="Coverage of a value system",
    why="A value or risk that no prompt is about is left to chance by tuning, whatever the size of "
    "the set.",
    metrics={
        "assigned": "share of prompts that belong to a node",
        "leaves": "number of leaves of the tree",
        "empty_leaves": "number of leaves without a prompt",
        "evenness": "entropy over its maximum, 1 if all nodes are as frequent (evenness:<level>)",
        "node": "share of a node on its level, its children's with it (node:<id>)",
    },
    run=run,
    mends=(
        "# prompts for empty leaves: generators.Dilemmas and generators.SystemMessages take "
        "`values: NAME`; or import a source that has them",
    ),
)
