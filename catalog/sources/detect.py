"""Recognise a layout by the columns of the first records and the types of their values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from catalog.sources.chunks import Record
from catalog.sources.columns import Path, value_at
from catalog.sources.fields import Field, Kind, accepts, from_text, is_number
from catalog.sources.layouts import LAYOUTS
from catalog.sources.layouts.base import Layout
from prefactory.errors import DataError
from prefactory.tables import COLUMNS, Shape

_OURS = {"prompt_id", "response_id", "pair_id", "chosen_id", "rejected_id", "source_id"}
_SIDE_SCORES = ("chosen_score_", "rejected_score_")
_ORIGINS = {Shape.PAIRS: ("chosen_origin", "rejected_origin"), Shape.RESPONSES: ("origin",)}


@dataclass(frozen=True, slots=True)
class Sample:
    """The first records of a source.

    Attributes:
        columns: names of all columns seen, in order.
        records: as parsed.
        texts_only: values are texts (csv).
        images: dtype of an `images` column, if the file says.
    """

    columns: list[str]
    records: list[Record]
    texts_only: bool = False
    images: pl.DataType | None = None

    def values(self, path: Path, kind: Kind) -> list[Any]:
        """Values at a path, read as a kind if they come from csv; nulls are left out."""
        cells = (value_at(r, path) for r in self.records)
        return [
            value
            for v in cells
            if (value := from_text(kind, v) if self.texts_only else v) is not None
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to read a source: the layout, all fields and where each lies."""

    layout: Layout
    fields: tuple[Field, ...]
    binding: Mapping[str, Path]

    def schema(self) -> dict[str, pl.DataType]:
        """Columns of the rows: those of the shape, then margin, scores, images and extras."""
        shape = self.layout.shape
        schema = dict(COLUMNS[shape])
        for name in self.layout.makes:
            schema[name] = pl.Float64()
        own = {f.name for f in self.layout.fields}
        for field in self.fields:
            carried = field.name not in own or _carried(field.name)
            if field.name in self.binding and carried and field.name not in schema:
                schema[field.name] = field.column_dtype
        return schema


def _carried(name: str) -> bool:
    return name.startswith(("score_", *_SIDE_SCORES)) or name.endswith("_origin")


def plan_for(sample: Sample, layout: str, mapping: Mapping[str, str], where: str) -> Plan:
    """Find the layout of a sample, or check the one that was asked for.

    Args:
        sample: the first records.
        layout: a name, or `auto`.
        mapping: our column <- their column.
        where: what to call the source in errors.

    Raises:
        DataError: unknown layout name, or the columns don't fit.
    """
    paths = {
        ours: _path(theirs, sample)
        for ours, theirs in mapping.items()
        if ours != "questions" or theirs in sample.columns
    }
    missing = [f"{mapping[o]!r} (for {o})" for o, p in paths.items() if not _present(p, sample)]
    if missing and sample.records:
        raise DataError(
            f"{where} has no column {', '.join(missing)}; its columns are {_list(sample.columns)}"
        )
    if layout == "auto":
        candidates = [form for entry in LAYOUTS.values() for form in (entry, *entry.alternatives)]
        for form in candidates:
            binding = _binding(form, sample, paths)
            if _fits(form, binding, sample):
                return _plan(form, binding, sample, paths)
        raise DataError(_unknown(sample, where))
    if layout not in LAYOUTS:
        near = difflib.get_close_matches(layout, LAYOUTS, n=3) or list(LAYOUTS)
        raise DataError(f"there is no layout {layout!r}; did you mean {', '.join(near)}?")
    return _forced(LAYOUTS[layout], sample, paths, where)


def _forced(entry: Layout, sample: Sample, paths: Mapping[str, Path], where: str) -> Plan:
    all_lacks: list[list[str]] = []
    for form in (entry, *entry.alternatives):
        binding = _binding(form, sample, paths)
        all_lacks.append(_lacks(form, binding))
        if not all_lacks[-1]:
            return _plan(form, binding, sample, paths)
    lacks = min(all_lacks, key=len)
    raise DataError(
        f"{where} can't be read with layout {entry.name!r}: no column for {', '.join(lacks)}; its "
        f"columns are {_list(sample.columns)}; name the columns in `mapping`, for example "
        f"{{{lacks[0]}: <their column>}}"
    )


def _path(name: str, sample: Sample) -> Path:
    return (name,) if name in sample.columns else tuple(name.split("."))


def _present(path: Path, sample: Sample) -> bool:
    if len(path) == 1:
        return path[0] in sample.columns
    return any(value_at(r, path) is not None for r in sample.records)


def _binding(form: Layout, sample: Sample, paths: Mapping[str, Path]) -> dict[str, Path]:
    binding: dict[str, Path] = {}
    for field in form.fields:
        if field.name in paths:
            binding[field.name] = paths[field.name]
            continue
        for name in field.candidates:
            path = _path(name, sample)
            if _present(path, sample) and (field.required or _is(field, path, sample)):
                binding[field.name] = path
                break
    return binding


def _is(field: Field, path: Path, sample: Sample) -> bool:
    """Whether most values at a path are of the field's kind (also true where there are none)."""
    values = sample.values(path, field.kind)
    return sum(accepts(field.kind, v) for v in values) * 2 >= len(values)


def _lacks(form: Layout, binding: Mapping[str, Path]) -> list[str]:
    return [f.name for f in form.fields if f.required and f.name not in binding]


def _fits(form: Layout, binding: Mapping[str, Path], sample: Sample) -> bool:
    if _lacks(form, binding):
        return False
    for field in form.fields:
        if not field.required:
            continue
        values = sample.values(binding[field.name], field.kind)
        enough = field.nullable or len(values) * 2 >= len(sample.records)
        if not enough or not _is(field, binding[field.name], sample):
            return False
    records = [{name: value_at(r, path) for name, path in binding.items()} for r in sample.records]
    return form.when(records, set(sample.columns)) if records or not form.fields else True


def _plan(
    form: Layout, binding: dict[str, Path], sample: Sample, paths: Mapping[str, Path]
) -> Plan:
    known = {f.name for f in form.fields}
    extras: list[Field] = []
    for name, path in paths.items():
        if name in known:
            continue
        extras.append(_extra(name, path, sample, form.shape))
        binding[name] = path
    used = {*known, *paths, *form.makes}
    for name in sample.columns:
        if name not in used and _wanted(name, form.shape) and (field := _own_field(name, sample)):
            extras.append(field)
            binding[name] = (name,)
    return Plan(form, (*form.fields, *extras), binding)


def _wanted(name: str, shape: Shape) -> bool:
    """Columns that are carried along unasked: scores and margin by our names, and images."""
    prefixes = {Shape.PAIRS: _SIDE_SCORES, Shape.RESPONSES: ("score_",)}.get(shape, ())
    scored = bool(prefixes) and name.startswith(prefixes)
    return name == "images" or scored or (name == "margin" and shape == Shape.PAIRS)


def _own_field(name: str, sample: Sample) -> Field | None:
    values = sample.values((name,), Kind.NUMBER)
    if name == "images":
        dtype = sample.images if sample.images is not None else _dtype(values)
        is_list = isinstance(dtype, pl.List)
        return Field(name, Kind.RAW, required=False, dtype=dtype) if is_list else None
    numbers = values and all(is_number(v) for v in values)
    if name == "margin" and len(values) < len(sample.records):
        return None
    return Field(name, Kind.NUMBER, required=False) if numbers else None


def _extra(name: str, path: Path, sample: Sample, shape: Shape) -> Field:
    """A mapped column that is no field of the layout."""
    if name in _OURS:
        raise DataError(f"{name!r} can't be mapped: ids are made of the content of the rows")
    if name == "margin" or name.startswith(("score_", *_SIDE_SCORES)):
        return Field(name, Kind.NUMBER, required=False)
    if name in COLUMNS[shape] or name in _ORIGINS.get(shape, ()):
        return Field(name, Kind.TEXT, required=False)
    return Field(name, Kind.RAW, required=False, dtype=_dtype(sample.values(path, Kind.RAW)))


def _dtype(values: list[Any]) -> pl.DataType:
    try:
        dtype = pl.Series(values, strict=True).dtype if values else pl.String()
    except (TypeError, pl.exceptions.PolarsError):
        return pl.String()
    return pl.String() if dtype == pl.Null else dtype


def _unknown(sample: Sample, where: str) -> str:
    columns = {*sample.columns}
    scored: list[tuple[float, str, list[str]]] = []
    for entry in LAYOUTS.values():
        required = [f for f in entry.fields if f.required]
        missing = [f.candidates[0] for f in required if not columns & {*f.candidates}]
        scored.append((len(missing) / max(len(required), 1), entry.name, missing))
    nearest = sorted(scored, key=lambda item: item[0])[:3]
    hints = "; ".join(
        f"{name} ({'without ' + ', '.join(missing) if missing else 'if you name it'})"
        for share, name, missing in nearest
        if share < 1
    )
    return (
        f"{where} has no layout that is known; its columns are {_list(sample.columns)}; nearest: "
        f"{hints or 'none'}; name a `layout`, or say in `mapping` which columns are prompt, chosen "
        "and rejected, or prompt and response"
    )


def _list(columns: list[str]) -> str:
    names = [c if len(c) <= 40 else f"{c[:40]}..." for c in columns[:30]]
    shown = ", ".join(names) or "(none)"
    return shown if len(columns) <= 30 else f"{shown}, and {len(columns) - 30} more"
