"""Files of the exchange: written and read by format, with one-sentence errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from prefactory.errors import ConfigError, DataError
from prefactory.tables import COLUMNS, Shape
from review.exchange import argilla, label_studio
from review.exchange.tasks import FIELDS, as_annotations, tasks, time_of

Format = Literal["label-studio", "argilla", "csv", "datasets"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_tasks(pairs: pl.DataFrame, to: Format, out: Path, seed: int = 0) -> list[Path]:
    """Write pairs as blind tasks of another tool; the files that were written.

    Args:
        pairs: PAIRS.
        to: `label-studio`: a JSON of tasks, and the interface beside it as XML; `argilla`: records,
            and the dataset's settings beside them; `csv`: a table with an empty column `choice` to
            fill in; `datasets`: a folder that `datasets.load_from_disk` reads.
        out: file, or folder for `datasets`.
        seed: see `review.exchange.tasks.tasks`.

    Raises:
        ConfigError: nothing can be written there.
    """
    made = tasks(pairs, seed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if to == "label-studio":
            config = out.with_suffix(".xml")
            config.write_text(label_studio.CONFIG, "utf-8")
            return [_json(out, label_studio.exported(made)), config]
        if to == "argilla":
            settings = out.with_name(f"{out.stem}.settings.json")
            return [_json(out, argilla.exported(made)), _json(settings, argilla.settings())]
        if to == "csv":
            return [_csv(out, made)]
        from datasets import Dataset

        Dataset.from_list(made.to_dicts()).save_to_disk(str(out))
        return [out]
    except OSError as error:
        raise ConfigError(f"{str(out)!r} can't be written: {error.strerror or error}") from error


def _json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return path


def _csv(path: Path, made: pl.DataFrame) -> Path:
    safe = [pl.col(c) for c in FIELDS[:1]] + [
        pl.when(pl.col(c).str.contains(r"^[=+\-@\t\r]"))
        .then(pl.format("'{}", c))
        .otherwise(c)
        .alias(c)
        for c in FIELDS[1:]
    ]
    empty = [pl.lit("").alias(c) for c in ("person", "choice", "comment")]
    made.select(*safe, *empty).write_csv(path)
    return path


def read_votes(path: Path, form: Format, seed: int = 0, names: bool = False) -> pl.DataFrame:
    """Read what people said in another tool as a table of ANNOTATIONS.

    Args:
        path: JSON export of Label Studio, records of Argilla, CSV with `pair_id`, `choice` and
            where known `person`, `comment`, `at`; or a folder of `datasets` with these columns (or
            a published table of annotations).
        form: which of them it is.
        seed: of the tasks as they were exported.
        names: keep people's names.

    Raises:
        ConfigError: it can't be read.
        DataError: it is not what `form` says.
    """
    if form == "datasets":
        whole = _dataset(path)
        if set(COLUMNS[Shape.ANNOTATIONS]) <= set(whole.columns):
            return whole.select(pl.col(c).cast(d) for c, d in COLUMNS[Shape.ANNOTATIONS].items())
        found = _rows(whole.to_dicts(), path)
    elif form == "csv":
        found = _rows(_csv_rows(path), path)
    else:
        tool = label_studio if form == "label-studio" else argilla
        found = tool.results(_list(path))
    timed = ({**r, "at": time_of(r.get("at"))} for r in found)
    return as_annotations(timed, seed, form, names)


def _list(path: Path) -> list[dict[str, Any]]:
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if isinstance(data, dict) and isinstance(data.get("items", data.get("records")), list):
        data = data.get("items", data.get("records"))  # a page of Argilla's API
    if not isinstance(data, list):
        raise DataError(f"{path} holds no list of tasks or records")
    return data


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    text = _text(path)
    dialect = (
        ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    )
    return list(csv.DictReader(text.splitlines(keepends=True), delimiter=dialect))


def _rows(rows: list[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """Rows with a choice; the place of a wrong one is in the error."""
    for number, row in enumerate(rows, 1):
        if "pair_id" not in row or "choice" not in row:
            raise DataError(f"{path} needs columns pair_id and choice; it has {', '.join(row)}")
        if (row["choice"] or "").strip():
            yield {**row, "row_id": row["pair_id"], "person": row.get("person") or path.stem}
        elif None in row:
            raise DataError(f"{path}, row {number}: it has more cells than the head")


def _dataset(path: Path) -> pl.DataFrame:
    from datasets import load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:  # of datasets and fsspec, which have no common base
        raise ConfigError(f"{path} is no folder of `datasets`: {error}") from error
    tables = list(found.values()) if isinstance(found, dict) else [found]
    return pl.concat([pl.DataFrame(t.to_list()) for t in tables], how="diagonal_relaxed")
