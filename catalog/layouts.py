"""Layouts: a version's rows in the form that a trainer or tool reads.

| layout | columns | read by |
|---|---|---|
| `trl` | prompt, chosen, rejected: lists of messages | TRL DPO, Reward, KTO (explicit prompt) |
| `trl-implicit` | chosen, rejected: conversations; margin | TRL Reward, OpenRLHF, RewardBench |
| `kto` | prompt, completion: lists of messages; label | TRL KTO |
| `sft` | messages | TRL SFT, most fine-tuning tools |
| `stepwise` | prompt, completions: the steps, labels: is each right | process reward trainers |
| `responses` | all columns of the response table | anything that scores |

Where prompts have pictures, all but `responses` also have `images`, and the contents of their
messages are lists of parts, as TRL and the processors of vision models read them.

Messages with calls of tools have them in OpenAI's form (`tool_calls`: `{id, type: function,
function: {name, arguments}}`, the arguments as JSON text), and reasoning as `reasoning_content`;
`tools`, the JSON text that TRL reads, stands beside the conversations. `responses` keeps the
table's own form.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from catalog.arrow_folder import SplitWriter, arrow_schema, write_dict
from catalog.image_parts import with_parts, write_folder
from catalog.versions import Version
from prefactory.chat_template import ChatTemplate, Effect, IgnoredSystem, effect
from prefactory.engines.chat_form import chat_columns
from prefactory.errors import CatalogError, ConfigError
from prefactory.folders import new_folder
from prefactory.images.marks import is_pictures
from prefactory.overrides import nearest
from prefactory.process.labels import LABELS, STEPS, Neutral, chances, signed_sources
from prefactory.tables import OF_PROMPT, ROW_ID, SIDES, shape_of, text_of

KEEP = (
    "pair_id", "prompt_id", "source", "chosen_model", "rejected_model", "goal", "goal_kind",
    "dimension", "objective", "beta", "weight",
)  # fmt: skip
"""Columns that are carried along; the last four are for trainers of several objectives."""
KEEP_LIKE = ("sign_", "margin_", "chosen_score_", "rejected_score_")
"""Beginnings of more such columns."""


def _extras(pairs: pl.DataFrame) -> list[str]:
    more = [c for c in pairs.columns if c.startswith(KEEP_LIKE)]
    return [*_of_prompt(pairs), *(c for c in (*KEEP, *more) if c in pairs.columns)]


def _of_prompt(pairs: pl.DataFrame) -> list[str]:
    """Columns that belong to the prompt, as TRL names them."""
    return [c for c in OF_PROMPT if c in pairs.columns]


def _talks(rows: pl.DataFrame, *columns: str) -> list[pl.Expr]:
    """Conversations as chat templates take them: calls as `{type: function, function}`."""
    return [chat_columns(pl.col(c), rows.schema[c]).alias(c) for c in columns]


def _margin(pairs: pl.DataFrame) -> list[str]:
    """The margin, but not of goal pairs: theirs is a squared distance, no difference of rewards."""
    goals = "goal" in pairs.columns
    return ["margin"] if "margin" in pairs.columns and not goals else []


def _images(pairs: pl.DataFrame) -> list[str]:
    """Columns of pictures, the prompt's own first."""
    return sorted(
        (c for c, d in pairs.schema.items() if is_pictures(d)), key=lambda c: c != "images"
    )


def _pictured(
    rows: pl.DataFrame, prompts: tuple[str, ...], answers: tuple[str, ...] = ()
) -> pl.DataFrame:
    """Messages as parts, where there are pictures."""
    return with_parts(rows, prompts, answers) if "images" in rows.columns else rows


def trl(pairs: pl.DataFrame) -> pl.DataFrame:
    """Explicit conversational pairs. `margin` stays out: TRL's reward loss would use it unasked."""
    talks = _talks(pairs, "prompt", *SIDES)
    rows = pairs.select(*talks, *_images(pairs), *_extras(pairs))
    return _pictured(rows, ("prompt",), SIDES)


def trl_implicit(pairs: pl.DataFrame) -> pl.DataFrame:
    """Whole conversations on both sides; `margin` on all rows or on none."""
    whole = pairs.with_columns(pl.concat_list("prompt", side).alias(side) for side in SIDES)
    rows = whole.select(
        *_talks(whole, *SIDES),
        *_images(pairs),
        *_margin(pairs),
        *_extras(pairs),
    )
    return _pictured(rows, SIDES)


def kto(pairs: pl.DataFrame) -> pl.DataFrame:
    """Unpaired rows, the chosen of a pair (label true) before its rejected (label false)."""
    sides = pl.concat_list(
        pl.struct(completion="chosen", label=pl.lit(True)),
        pl.struct(completion="rejected", label=pl.lit(False)),
    )
    images = _images(pairs)
    beside = ["pair_id", "prompt_id", *_of_prompt(pairs)]
    rows = pairs.select("prompt", *images, *beside, side=sides).explode("side").unnest("side")
    rows = rows.select(*_talks(rows, "prompt", "completion"), "label", *images, *beside)
    return _pictured(rows, ("prompt",), ("completion",))


def sft(pairs: pl.DataFrame) -> pl.DataFrame:
    """The chosen conversations."""
    whole = pairs.with_columns(messages=pl.concat_list("prompt", "chosen"))
    talk = _talks(whole, "messages")
    rows = whole.select(*talk, *_images(pairs), "pair_id", *_of_prompt(pairs))
    return _pictured(rows, ("messages",))


def stepwise(
    responses: pl.DataFrame, signed: Sequence[str | None] = (), neutral: Neutral = "right"
) -> pl.DataFrame:
    """Answers with labels of their steps, as far as these go; other answers are left out.

    Args:
        responses: with `steps` and `step_labels`.
        signed: sources whose labels are 1, 0 and -1 (`signed_sources`).
        neutral: what a 0 of these is; `right` or `wrong`.
    """
    chance = chances(signed, neutral)
    rows = responses.with_columns(chance.alias("_chance"))
    whole = pl.col("_chance").list.len() > 0
    rows = rows.filter(whole & ~pl.col("_chance").list.eval(pl.element().is_null()).list.any())
    return rows.select(
        text_of(pl.col("prompt")).alias("prompt"),
        pl.col(STEPS).list.head(pl.col("_chance").list.len()).alias("completions"),
        pl.col("_chance").list.eval(pl.element() >= 0.5).alias("labels"),
        "response_id", "prompt_id", "source", *_of_prompt(responses),
    )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A view of one table of a version."""

    table: str
    view: Callable[[pl.DataFrame], pl.DataFrame]


LAYOUTS: dict[str, Layout] = {
    "trl": Layout("pairs", trl),
    "trl-implicit": Layout("pairs", trl_implicit),
    "kto": Layout("pairs", kto),
    "sft": Layout("pairs", sft),
    "stepwise": Layout("responses", stepwise),
    "responses": Layout("responses", lambda responses: responses),
}
FORMATS = ("arrow", "parquet", "jsonl")


def export(
    version: Version,
    layout: str,
    out: Path,
    file_format: str = "arrow",
    table: str | None = None,
    shown: Effect | None = None,
    *,
    carry: Sequence[str] = (),
) -> dict[str, int]:
    """Write a version in a layout to a new folder, all or nothing.

    Args:
        version: what to export.
        layout: a name of `LAYOUTS`.
        out: folder that does not exist yet.
        file_format: `arrow` (for `datasets.load_from_disk`), `parquet` or `jsonl` (for
            `load_dataset`, as `data/<split>-00000-of-00001.<format>`; a split without rows gets no
            file, because `load_dataset` fails on one).
        table: which table, if not the layout's own (`goal_pairs` instead of `pairs`).
        shown: what a chat template makes of the pairs (`as_rendered`); those that are lost to it
            are left out, and the README of the folder says why.
        carry: more columns of the table that the rows keep (those of a source's labels, ...).

    Returns:
        Rows per split.

    Raises:
        CatalogError: for an unknown layout or format, a missing table or column, or a folder that
            exists or can't be made.
    """
    if layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise CatalogError(f"no layout {layout!r}{nearest(layout, list(LAYOUTS))} (of {known})")
    if file_format not in FORMATS:
        raise CatalogError(f"no format {file_format!r}; choose one of {', '.join(FORMATS)}")
    view = _of_table(version, LAYOUTS[layout], layout, table)
    if layout == "trl-implicit" and _contradicts(version, view.table):
        view = Layout(view.table, lambda pairs: trl_implicit(pairs.drop("margin")))
    if layout == "stepwise":
        view = Layout(view.table, partial(stepwise, signed=_signed(version, view.table)))
    if shown is not None:
        view = Layout(view.table, _without(shown.lost, view.view))
    view = _carrying(version, view, carry)
    splits = version.manifest.tables[view.table].splits
    if not any(splits.values()):
        raise CatalogError(f"{version.ref} has no {view.table} to export")
    with new_folder(out, CatalogError, checksums=False) as folder:
        write = _write_arrow if file_format == "arrow" else _write_files
        counts = {s: write(version, view, s, folder, file_format) for s in splits}
        if file_format == "arrow":
            write_dict(folder, list(splits))
        about = _card(version, layout, file_format, counts)
        about += "".join(f"- {line}\n" for line in (shown.lines() if shown else ()))
        (folder / "README.md").write_text(about, "utf-8")
    return counts


def as_rendered(
    version: Version,
    layout: str,
    tokenizer: str,
    table: str | None = None,
    ignored: IgnoredSystem = "refuse",
) -> Effect:
    """Render the pairs of an export with a chat template, and see what it leaves of them.

    Args:
        version: what is exported.
        layout: a name of `LAYOUTS`, of pairs.
        tokenizer: a folder or hub id with a chat template.
        table: as for `export`.
        ignored: `refuse` data whose system messages the template leaves out, or `keep` it.

    Raises:
        ConfigError: the tokenizer has no template, or `ignored` is neither.
        CatalogError: the layout is not one of pairs.
        DataError: the data must not be trained on with this template.
    """
    if ignored not in ("refuse", "keep"):
        raise ConfigError(f"ignored_system {ignored!r}: choose refuse or keep")
    if layout not in LAYOUTS or LAYOUTS[layout].table != "pairs":
        raise CatalogError(f"a chat template renders pairs; layout {layout!r} does not hold them")
    view = _of_table(version, LAYOUTS[layout], layout, table)
    splits = version.manifest.tables[view.table].splits
    batches = (batch for split in splits for batch in version.batches(view.table, split))
    return effect(ChatTemplate.open(tokenizer), batches, ignored).checked()


def _without(
    lost: pl.DataFrame, view: Callable[[pl.DataFrame], pl.DataFrame]
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """A view of the rows that are not lost."""
    return lambda pairs: view(pairs.filter(~pl.col("pair_id").is_in(lost["pair_id"].implode())))


def _signed(version: Version, table: str) -> list[str | None]:
    """Sources whose labels of steps are 1, 0 and -1.

    Raises:
        CatalogError: the answers have no labels of steps.
    """
    record = version.manifest.tables[table]
    if missing := {STEPS, LABELS} - set(record.columns):
        raise CatalogError(
            f"layout 'stepwise' reads {STEPS} and {LABELS}, and {table} of {version.ref} has no "
            f"{', '.join(sorted(missing))}: sources of steps have them, and labelers.HumanAnswers "
            "after a review with the task steps"
        )
    columns = ["source", LABELS]
    parts = (b for s in record.splits for b in version.batches(table, s, columns))
    return signed_sources(parts)


def _contradicts(version: Version, table: str) -> bool:
    """Tell whether some margin is below zero: as a target for a reward model it would be wrong."""
    record = version.manifest.tables[table]
    if "margin" not in record.columns:
        return False
    return any(
        (batch["margin"] < 0).any()
        for split in record.splits
        for batch in version.batches(table, split, ["margin"])
    )


def _of_table(version: Version, view: Layout, layout: str, table: str | None) -> Layout:
    """The layout on the table that was asked for, if that is of the right shape."""
    name, tables = table or view.table, version.manifest.tables
    if name not in tables:
        raise CatalogError(
            f"{version.ref} has no {name}, which layout {layout!r} needs; it has: "
            + ", ".join(tables)
        )
    if tables[name].shape != view.table:
        raise CatalogError(
            f"layout {layout!r} needs {view.table}; {name} holds {tables[name].shape}"
        )
    return Layout(name, view.view)


def _carrying(version: Version, view: Layout, carry: Sequence[str]) -> Layout:
    """The layout with more columns of its table, each pair's beside it."""
    columns = version.manifest.tables[view.table].columns
    if lacking := [name for name in carry if name not in columns]:
        raise CatalogError(
            f"{view.table} of {version.ref} has no column {', '.join(lacking)} to carry; it has: "
            + ", ".join(columns)
        )

    def carried(rows: pl.DataFrame) -> pl.DataFrame:
        shown = view.view(rows)
        more = [name for name in carry if name not in shown.columns]
        if not more:
            return shown
        own = ROW_ID[shape_of(rows)]
        extra = rows.select(own, *more)
        return shown.join(extra, on=own, how="left", maintain_order="left")

    return Layout(view.table, carried) if carry else view


def _write_arrow(version: Version, view: Layout, split: str, folder: Path, _: str) -> int:
    writer: SplitWriter | None = None
    for batch in version.batches(view.table, split):
        rows = view.view(batch)
        writer = writer or SplitWriter(folder / split, split, arrow_schema(rows))
        writer.write(rows)
    if writer is None:  # an empty split: take the columns from a split that has rows
        writer = SplitWriter(folder / split, split, arrow_schema(_empty(version, view)))
    return int(writer.close()["num_examples"])


def _write_files(version: Version, view: Layout, split: str, folder: Path, kind: str) -> int:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"{split}-00000-of-00001.{kind}"
    batches = (view.view(b) for b in version.batches(view.table, split))
    rows = next(batches, None)
    if rows is None:
        return 0
    if kind == "jsonl" and any(map(is_pictures, rows.dtypes)):
        return write_folder(itertools.chain([rows], batches), folder / "data" / split)
    written = 0
    if kind == "parquet":
        schema = arrow_schema(rows)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in itertools.chain([rows], batches):
                writer.write_table(
                    batch.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
                )
                written += batch.height
        return written
    with path.open("wb") as file:
        for batch in itertools.chain([rows], batches):
            batch.write_ndjson(file)
            written += batch.height
    return written


def _empty(version: Version, view: Layout) -> pl.DataFrame:
    for split in version.manifest.tables[view.table].splits:
        for batch in version.batches(view.table, split):
            return view.view(batch.clear())
    raise CatalogError(f"{version.ref} has no {view.table} to export")


def _card(version: Version, layout: str, file_format: str, counts: dict[str, int]) -> str:
    load = (
        'from datasets import load_from_disk\n\ndata = load_from_disk("THIS_FOLDER")'
        if file_format == "arrow"
        else 'from datasets import load_dataset\n\ndata = load_dataset("THIS_FOLDER")'
    )
    rows = ", ".join(f"{split} {n:,}" for split, n in counts.items())
    return (
        f"# {version.ref}, layout `{layout}`\n\nRows: {rows}. Content digest of the version: "
        f"`{version.manifest.content_digest}`.\n\n```python\n{load}\n```\n"
    )
