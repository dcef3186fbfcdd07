"""Recognise a layout by the columns of the first records and the types of their values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from catalog.sources.account import EMPTY, Account, Bears, bears_on, is_in, is_short, refusal, words
from catalog.sources.chunks import Record
from catalog.sources.columns import Path, value_at
from catalog.sources.fields import (
    CONVERSATIONS,
    SPEAKER,
    Field,
    Kind,
    accepts,
    from_text,
    is_number,
    spoken,
)
from catalog.sources.guess import MAX_VALUES, Guess, guess_ab, meaning_of, offer
from catalog.sources.layouts import LAYOUTS
from catalog.sources.layouts.ab import MEANINGS, folded
from catalog.sources.layouts.base import Layout
from catalog.sources.messages import MESSAGE_KEYS
from catalog.sources.parts import NAMES, PARTS
from catalog.sources.pictures.read import COLUMNS as PICTURE_COLUMNS
from catalog.sources.pictures.read import Where, shows_pictures
from catalog.sources.questions import BESIDE
from catalog.sources.spec import SourceSpec
from prefactory.errors import DataError
from prefactory.images.marks import IMAGES
from prefactory.preferences.draws import DRAWS
from prefactory.tables import COLUMNS, OF_PROMPT, SIDES, TEXTS, Shape, is_score

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
    """

    columns: list[str]
    records: list[Record]
    texts_only: bool = False

    def raw(self, column: str) -> list[Any]:
        """Values of a column that are neither null nor an empty text."""
        return [v for r in self.records if (v := r.get(column)) not in (None, "", [], {})]

    def values(self, path: Path, kind: Kind) -> list[Any]:
        """Values at a path, read as a kind if they come from csv; nulls are left out."""
        cells = (value_at(r, path) for r in self.records)
        return [value for v in cells if (value := self._read(kind, v)) is not None]

    def _read(self, kind: Kind, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if self.texts_only:
            return from_text(kind, value)
        return spoken(value) if kind in CONVERSATIONS else value


@dataclass(frozen=True, slots=True)
class Plan:
    """How to read a source: the layout, all fields and where each lies.

    Attributes:
        parts: names of the fields that the prompts are completed with (see `parts`).
        pictures: where the pictures of prompts lie, if there are any.
        twins: columns that the source has of its first and of its second answer, by what they
            are called without the answer: `_a_<name>` and `_b_<name>` become `chosen_<name>` and
            `rejected_<name>`.
        account: what becomes of each column.
    """

    layout: Layout
    fields: tuple[Field, ...]
    binding: Mapping[str, Path]
    parts: tuple[str, ...] = ()
    twins: Mapping[str, pl.DataType] = dataclass_field(default_factory=dict)
    account: Account = dataclass_field(default_factory=Account)
    pictures: Where | None = None

    def schema(self) -> dict[str, pl.DataType]:
        """Columns of the rows: those of the shape, then margin, scores, images and extras."""
        shape = self.layout.shape
        schema = dict(COLUMNS[shape])
        for name in self.layout.makes:
            schema[name] = pl.Float64()
        for made in self.layout.carries:
            if not made.of or made.of in self.binding:
                schema[made.name] = made.dtype
        own = {*(f.name for f in self.layout.fields), *self.parts}
        for field in self.fields:
            carried = field.name not in own or _carried(field.name)
            hidden = field.name.startswith("_")
            if field.name in self.binding and carried and not hidden and field.name not in schema:
                schema[field.name] = field.column_dtype
        if self.draws:
            schema |= DRAWS
        for name, dtype in self.twins.items():
            schema |= {f"{side}_{name}": dtype for side in SIDES}
        return schema | ({"images": IMAGES} if self.pictures is not None else {})

    @property
    def draws(self) -> bool:
        """Whether each row is a draw that is counted with others of the same pair."""
        return self.layout.draws or ANNOTATOR.name in self.binding


def _carried(name: str) -> bool:
    kept = name in OF_PROMPT or name.endswith("_origin")
    return kept or name.startswith(("score_", *_SIDE_SCORES))


def plan_for(spec: SourceSpec, sample: Sample, where: str) -> Plan:
    """Find the layout of a sample, or check the one that was asked for, and account for columns.

    Where the most particular layout would lose a column that bears on the prompt or an answer,
    a more general one that reads all of them is taken.

    Args:
        spec: its `layout`, `mapping` (our column <- their column), `carry` and `ignore` count.
        sample: the first records.
        where: what to call the source in errors.

    Raises:
        DataError: unknown layout name, the columns don't fit, or one that bears on the prompt or
            the label would not be read.
    """
    ignored = {*spec.ignore}
    seen = replace(sample, columns=[c for c in sample.columns if c not in ignored])
    paths = {
        ours: _path(theirs, seen)
        for ours, theirs in spec.mapping.items()
        if ours not in BESIDE or theirs in seen.columns
    }
    missing = [f"{spec.mapping[o]!r} (for {o})" for o, p in paths.items() if not _present(p, seen)]
    missing += [f"{name!r} (to carry)" for name in spec.carry if name not in seen.columns]
    missing += [f"{name!r} (to ignore)" for name in spec.ignore if name not in sample.columns]
    if missing and sample.records:
        raise MissingColumnError(
            f"{where} has no column {', '.join(missing)}; its columns are {_list(sample.columns)}"
        )
    layout = "ab" if spec.layout == "auto" and paths.keys() >= _JUDGED else spec.layout
    try:
        plan = _planned(layout, seen, paths, spec.carry, where)
    except DataError as error:
        guess = guess_ab(seen.columns, seen.records)
        if guess is None or layout not in ("auto", "ab"):
            raise
        told = offer(spec.path, guess, seen.records)
        raise NotKnownError(
            f"{str(error).partition('; nearest')[0]}; {told}", guess, seen
        ) from error
    if spec.layout == "auto" and plan.layout.shape == Shape.PROMPTS:
        guess = guess_ab(seen.columns, seen.records)
        if guess is not None:
            raise NotKnownError(f"{where}: {offer(spec.path, guess, seen.records)}", guess, seen)
    try:
        return _checked(plan, seen, spec, where)
    except VanishingColumnsError as error:
        later = _candidates(seen, paths, spec.carry) if layout == "auto" else ()
        for other in later:
            if other.layout.shape == plan.layout.shape and other.layout != plan.layout:
                with suppress(DataError):
                    return _checked(other, seen, spec, where)
        raise error


def _checked(plan: Plan, sample: Sample, spec: SourceSpec, where: str) -> Plan:
    _check_values(plan, sample, spec, where)
    return _accounted(plan, sample, spec, where)


_JUDGED = {"a", "b", "verdict"}
"""Mapped together they say that the layout is `ab`."""


class NotKnownError(DataError):
    """No layout fits.

    Attributes:
        guess: what two answers and a verdict seem to mean, if there are such.
        sample: the first records; None once the error was sent between processes.
    """

    def __init__(self, text: str, guess: Guess | None = None, sample: Sample | None = None) -> None:
        """Keep what a dialogue needs beside the sentence."""
        super().__init__(text)
        self.guess = guess
        self.sample = sample


def _check_values(plan: Plan, sample: Sample, spec: SourceSpec, where: str) -> None:
    """Two answers and a verdict are read only if somebody said what its values mean.

    Raises:
        DataError: nobody did, or `values` are given where there is no verdict.
    """
    has_verdict = any(f.name == "verdict" and f.kind == Kind.PLAIN for f in plan.layout.fields)
    if spec.values and not has_verdict:
        raise DataError(
            f"{where}: `values` tell what a verdict means, and layout {plan.layout.name!r} reads "
            "none; name `layout: ab`, or leave `values` out"
        )
    _check_sides(plan, sample, spec, where)
    if plan.layout.name != "ab" or spec.values or not sample.records:
        return
    values = list(dict.fromkeys(map(folded, sample.values(plan.binding["verdict"], Kind.PLAIN))))
    if {*values} <= {*MEANINGS}:
        return
    asked, a, b, verdict = (".".join(plan.binding[n]) for n in ("prompt", "a", "b", "verdict"))
    meant = {v: meaning_of(v, a, b, verdict, values) for v in values[:MAX_VALUES]}
    guess = Guess(asked, a, b, verdict, meant)
    raise NotKnownError(f"{where}: {offer(spec.path, guess, sample.records)}", guess, sample)


class VanishingColumnsError(DataError):
    """Columns that bear on the prompt or an answer would not be read."""


class MissingColumnError(DataError):
    """The source has no column of a name, in the records that were looked at."""


def _planned(
    layout: str, sample: Sample, paths: Mapping[str, Path], carry: tuple[str, ...], where: str
) -> Plan:
    if layout == "auto":
        if (plan := next(_candidates(sample, paths, carry), None)) is None:
            raise NotKnownError(_unknown(sample, where), None, sample)
        return plan
    if layout not in LAYOUTS:
        near = difflib.get_close_matches(layout, LAYOUTS, n=3) or list(LAYOUTS)
        raise DataError(f"there is no layout {layout!r}; did you mean {', '.join(near)}?")
    return _forced(LAYOUTS[layout], sample, paths, carry, where)


def _candidates(
    sample: Sample, paths: Mapping[str, Path], carry: tuple[str, ...]
) -> Iterator[Plan]:
    """Every way to read a sample, the most particular first."""
    for form in (form for entry in LAYOUTS.values() for form in (entry, *entry.alternatives)):
        binding = _binding(form, sample, paths)
        if _takes(form, paths) and _fits(form, binding, sample):
            yield _plan(form, binding, sample, paths, carry)


def _forced(
    entry: Layout, sample: Sample, paths: Mapping[str, Path], carry: tuple[str, ...], where: str
) -> Plan:
    all_lacks: list[list[str]] = []
    for form in (entry, *entry.alternatives):
        binding = _binding(form, sample, paths)
        all_lacks.append(_lacks(form, binding))
        if not all_lacks[-1]:
            return _plan(form, binding, sample, paths, carry)
    lacks = min(all_lacks, key=len)
    raise DataError(
        f"{where} can't be read with layout {entry.name!r}: no column for {', '.join(lacks)}; its "
        f"columns are {_list(sample.columns)}; name the columns in `mapping`, for example "
        f"{{{lacks[0]}: <their column>}}"
    )


def _path(name: str, sample: Sample) -> Path:
    """Where a name leads: to the column of that name, into one, or to one that is spelt alike."""
    if name in sample.columns:
        return (name,)
    first, *rest = name.split(".")
    spelt = _spelt(tuple(sample.columns))
    if name in spelt:
        return (spelt[name],)
    return (first if first in sample.columns else spelt.get(first, first), *rest)


@lru_cache(maxsize=16)
def _spelt(columns: tuple[str, ...]) -> dict[str, str]:
    """Names in lower case with `_` between words -> the one column that is spelt so."""
    alike: dict[str, list[str]] = {}
    for column in columns:
        apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", column.strip())
        alike.setdefault(re.sub(r"[\s_-]+", "_", apart).lower(), []).append(column)
    return {name: same[0] for name, same in alike.items() if len(same) == 1}


def _present(path: Path, sample: Sample) -> bool:
    if len(path) == 1 or path[0] not in sample.columns:
        return path[0] in sample.columns
    return any(value_at(r, path) is not None for r in sample.records)


def _binding(form: Layout, sample: Sample, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Where each field lies: what is mapped, else the first of its names that is of its kind."""
    binding: dict[str, Path] = {}
    for group in form.paired:
        binding |= _paired(form, group, sample, paths)
    paired = {name for group in form.paired for name in group}
    for field in form.fields:
        if field.name in paths:
            binding[field.name] = paths[field.name]
            continue
        if field.name in paired:
            continue
        present = [p for n in field.candidates if _present(p := _path(n, sample), sample)]
        fits = next((p for p in present if _is(field, p, sample)), None)
        if fits is not None or (field.required and present):
            binding[field.name] = fits or present[0]
    return binding


def _paired(
    form: Layout, group: tuple[str, ...], sample: Sample, paths: Mapping[str, Path]
) -> dict[str, Path]:
    """The first names that all fields which are called alike have together."""
    fields = [f for f in form.fields if f.name in group and f.name not in paths]
    for names in zip(*(f.candidates for f in fields), strict=True):
        together = [_path(name, sample) for name in names]
        if all(_present(path, sample) for path in together):
            bound = zip(fields, together, strict=True)
            return {f.name: p for f, p in bound if f.required or _is(f, p, sample)}
    return {}


def _is(field: Field, path: Path, sample: Sample) -> bool:
    """Whether most values at a path are of the field's kind (also true where there are none)."""
    values = sample.values(path, field.kind)
    return sum(accepts(field.kind, v) for v in values) * 2 >= len(values)


def _check_sides(plan: Plan, sample: Sample, spec: SourceSpec, where: str) -> None:
    """Two answers that a verdict orders must not be called chosen and rejected by their place.

    Raises:
        DataError: the mapping does that, and the verdict is neither read nor ignored.
    """
    if not {"chosen", "rejected"} <= spec.mapping.keys():
        return
    guess = guess_ab(sample.columns, sample.records)
    sides = {spec.mapping["chosen"], spec.mapping["rejected"]}
    used = {path[0] for path in plan.binding.values()}
    if guess is None or {guess.a, guess.b} != sides or guess.verdict in used - {*spec.carry}:
        return
    raise NotKnownError(
        f"{where}: the mapping calls {spec.mapping['chosen']} the better answer of every record, "
        f"though {guess.verdict} seems to say which is better (`ignore: [{guess.verdict}]` says "
        f"that it does not); {offer(spec.path, guess, sample.records)}",
        guess,
        sample,
    )


def _takes(form: Layout, mapped: Mapping[str, Path]) -> bool:
    """Whether the texts that are mapped are fields of a form, not something that it makes."""
    return {*mapped} & {*TEXTS[form.shape]} <= {f.name for f in form.fields}


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
    form: Layout,
    binding: dict[str, Path],
    sample: Sample,
    paths: Mapping[str, Path],
    carry: tuple[str, ...],
) -> Plan:
    known = {f.name for f in form.fields}
    fields = tuple(_labelled(f, binding, sample) for f in form.fields)
    parts = _parts(known, binding, sample, paths, carry)
    binding |= {part.name: path for part, path in parts}
    extras: list[Field] = [part for part, _ in parts]
    taken = {*known, *(part.name for part, _ in parts)}
    for name, path in paths.items():
        if name in taken or name == "images":
            continue
        extras.append(_extra(name, path, sample, form.shape))
        binding[name] = path
    for name in carry:
        if name not in binding and name not in taken:
            extras.append(replace(_extra(name, (name,), sample, form.shape), carried=True))
            binding[name] = (name,)
    used = {*taken, *paths, *carry, *form.makes, *(made.name for made in form.carries)}
    if form.shape == Shape.PAIRS:
        asked = {*carry, *(path[0] for path in paths.values())}
        for mark in () if form.draws else (ANNOTATOR,):
            extras += _marked(mark, sample, asked, binding)
        for mark in () if "label_source" in binding else LABELLED_BY:
            extras += _marked(mark, sample, used, binding)
    for name in sample.columns:
        if name not in used and _wanted(name, form.shape) and (field := _own_field(name, sample)):
            extras.append(field)
            binding[name] = (name,)
    names = tuple(part.name for part, _ in parts)
    pictures = _pictures(form, binding, sample, paths)
    return Plan(form, (*fields, *extras), binding, names, pictures=pictures)


def _pictures(
    form: Layout, binding: Mapping[str, Path], sample: Sample, paths: Mapping[str, Path]
) -> Where | None:
    """Where the pictures of a source lie; None if it has none."""
    taken = set(binding.values())
    named = [(c,) for name in PICTURE_COLUMNS for c in sample.columns if c.lower() == name]
    column = paths.get("images") or next((path for path in named if path not in taken), None)
    said = [binding[f.name] for f in form.fields if f.kind in CONVERSATIONS and f.name in binding]
    shown = (p for p in said if any(shows_pictures(value_at(r, p)) for r in sample.records))
    messages = next(shown, None)
    return Where(column, messages) if column or messages else None


ANNOTATOR = Field(
    "_annotator",
    names=(
        "annotator", "evaluator", "rater", "labeler", "judge", "annotator_id", "evaluator_id",
        "rater_id", "labeler_id", "worker_id",
    ),
    required=False,
    carried=True,
)  # fmt: skip
"""Who labelled the record: each row is a draw then, unless the column is mapped or carried."""
LABELLED_BY = (
    Field("label_source", names=("label_source",), required=False, carried=True),
    Field(
        "_by_reward_model",
        names=(
            "rm_model", "reward_model", "reward_model_name",
            "metadata.rm_model", "metadata.reward_model",
        ),
        required=False,
        carried=True,
    ),
    Field(
        "_by_judge",
        names=("judge_model", "judge_name", "metadata.judge_model"),
        required=False,
        carried=True,
    ),
)  # fmt: skip
"""Columns by which a record says who chose."""


def _marked(
    field: Field, sample: Sample, used: set[str], binding: dict[str, Path]
) -> tuple[Field, ...]:
    """The field, if a column that is not used has texts for it; its place joins the binding."""
    for name in field.candidates:
        path = _path(name, sample)
        if path[0] in used or not _present(path, sample):
            continue
        if all(isinstance(v, str) for v in sample.values(path, Kind.TEXT)):
            binding[field.name] = path
            return (field,)
    return ()


def _labelled(field: Field, binding: Mapping[str, Path], sample: Sample) -> Field:
    """A field of true or false that is written 1 and -1 in this source reads these."""
    if field.kind != Kind.FLAG or field.name not in binding:
        return field
    values = sample.values(binding[field.name], Kind.SIGN)
    signs = any(str(v).strip() in ("-1", "-1.0") for v in values)
    return replace(field, kind=Kind.SIGN) if signs else field


def _parts(
    known: set[str],
    binding: Mapping[str, Path],
    sample: Sample,
    paths: Mapping[str, Path],
    carry: tuple[str, ...],
) -> list[tuple[Field, Path]]:
    """The parts of the prompt that the source has and the layout does not read itself."""
    used = {path[0] for path in (*binding.values(), *paths.values())} | {*carry}
    parts = []
    for part in PARTS:
        if part.name in known:
            continue
        if part.name in paths:
            parts.append((part, paths[part.name]))
            continue
        for column in sample.columns:
            path = (column,)
            if column in used or "_".join(words(column)) not in part.candidates:
                continue
            values = sample.values(path, part.kind)
            fits = sample.raw(column) and all(accepts(part.kind, v) for v in values)
            if not fits:
                continue
            if part.name not in OF_PROMPT and is_in(column, used, sample.records):
                continue  # the prompt holds it already
            parts.append((part, path))
            used.add(column)
            break
    return parts


def _accounted(plan: Plan, sample: Sample, spec: SourceSpec, where: str) -> Plan:
    """Say what becomes of each column; carry along what belongs to the row.

    Raises:
        VanishingColumnsError: one that bears on the prompt or the answers would not be read.
    """
    read, carried = _bound(plan)
    unread = dict.fromkeys(spec.ignore, "ignored")
    lost: dict[str, tuple[Bears, str | None]] = {}
    used = {path[0] for path in plan.binding.values()}
    used |= plan.pictures.columns if plan.pictures else set()
    binding, fields = dict(plan.binding), plan.fields
    twins: dict[str, tuple[str, Field]] = _twins(plan, sample, used)
    for name, (rest, field) in twins.items():
        fields, binding[field.name] = (*fields, field), (name,)
        carried[name] = f"chosen_{rest}, rejected_{rest}"
    plan = replace(plan, twins={rest: field.column_dtype for rest, field in twins.values()})
    unread |= _in_part(plan, sample) | _keys_of_messages(plan, sample)
    for name in sample.columns:
        if name in used or name in twins:
            continue
        values = sample.raw(name)
        bears = bears_on(name, values)
        extra = _carried_field(name, bears, sample, replace(plan, binding=binding, fields=fields))
        if extra is not None:
            fields, binding[extra.name] = (*fields, extra), (name,)
            carried[name] = extra.name
        elif bears in (Bears.PROMPT, Bears.ANSWER) and _would_vanish(name, plan, sample):
            lost[name] = (bears, _reads(name, bears, values))
        else:
            unread[name] = _why(bears, sample, name)
    if lost:
        raise VanishingColumnsError(refusal(where, plan.layout.name, lost))
    account = Account(read, carried, unread)
    return replace(plan, fields=fields, binding=binding, account=account)


def _bound(plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Columns that are read, and those that are carried along -> our names for them."""
    own = {f.name for f in plan.layout.fields} | {*plan.parts}
    read: dict[str, str] = {}
    carried: dict[str, str] = {}
    for name, path in plan.binding.items():
        part = carried if name not in own and not _is_ours(name, plan.layout.shape) else read
        part[".".join(path)] = _HIDDEN.get(name, name)
    if plan.pictures is not None and plan.pictures.column is not None:
        read[".".join(plan.pictures.column)] = "images"
    return read, carried


def _in_part(plan: Plan, sample: Sample) -> dict[str, str]:
    """Columns of which only some inner values are read -> which."""
    inner: dict[str, list[str]] = {}
    for path in plan.binding.values():
        inner.setdefault(path[0], []).append(".".join(path[1:]))
    return {
        name: f"but for {', '.join(parts)}"
        for name in sample.columns
        if all(parts := inner.get(name, [""]))
    }


def _keys_of_messages(plan: Plan, sample: Sample) -> dict[str, str]:
    """Keys of messages that are not read, as `chosen[].weight` -> what they are."""
    unread: dict[str, str] = {}
    for field in plan.fields:
        path = plan.binding.get(field.name)
        if path is None or field.kind not in CONVERSATIONS:
            continue
        for record in sample.records:
            messages = value_at(record, path)
            for message in messages if isinstance(messages, list) else ():
                if isinstance(message, dict):
                    more = [
                        k for k, v in message.items() if k not in MESSAGE_KEYS and v is not None
                    ]
                    unread |= {f"{'.'.join(path)}[].{k}": "a key of messages" for k in more}
    return unread


_PLACES = {"a": "b", "1": "2"}
_ANSWERS = ("completion", "response", "output", "answer", "model", "candidate", "generation")


def _twins(plan: Plan, sample: Sample, used: set[str]) -> dict[str, tuple[str, Field]]:
    """Plain columns of either answer of two: their column -> what they tell, and the field.

    Which answer is chosen is known only when the row was read, so they are brought to the sides.
    """
    if "response_b" not in plan.binding:
        return {}
    apart = {"_".join(words(name)): name for name in sample.columns if name not in used}
    twins: dict[str, tuple[str, Field]] = {}
    for key, name in apart.items():
        said = key.split("_")
        place = next((w for w in said if w in _PLACES), None)
        other = (
            apart.get("_".join(_PLACES[w] if w == place else w for w in said)) if place else None
        )
        rest = "_".join(w for w in said if w != place and w not in _ANSWERS)
        if other is None or not rest or f"chosen_{rest}" in plan.schema():
            continue
        both = [*sample.raw(name), *sample.raw(other)]
        if not both or not is_short(both):
            continue
        kind = next((k for k in (Kind.FLAG, Kind.NUMBER) if all(accepts(k, v) for v in both)), None)
        for column, letter in ((name, "a"), (other, "b")):
            field = Field(f"_{letter}_{rest}", kind or Kind.PLAIN, required=False, carried=True)
            twins[column] = (rest, field)
    return twins


def _would_vanish(name: str, plan: Plan, sample: Sample) -> bool:
    """Whether a column that is not read says something that no other column says.

    Records that lack what the layout needs don't count: they go to the ledger as a whole.
    """
    needed = [plan.binding[f.name] for f in plan.layout.fields if f.required and not f.nullable]
    records = [r for r in sample.records if all(value_at(r, p) is not None for p in needed)]
    some = [r for r in records if r.get(name) not in (None, "", [], {})]
    used = {path[0] for path in plan.binding.values()}
    return bool(some) and not is_in(name, used, some)


_HIDDEN = {
    "_by_reward_model": "label_source",
    "_by_judge": "label_source",
    "_annotator": "chosen_annotators, rejected_annotators",
}
"""Fields that no column of the rows is called after -> what they become."""


def _is_ours(name: str, shape: Shape) -> bool:
    """Whether a column is one of the table itself, or a score, and no extra column."""
    return name in _HIDDEN or name in COLUMNS[shape] or name == "margin" or _carried(name)


def _why(bears: Bears | None, sample: Sample, name: str) -> str:
    if not sample.raw(name):
        return EMPTY
    return "repeats what is read" if bears in (Bears.PROMPT, Bears.ANSWER) else ""


def _reads(name: str, bears: Bears, values: list[Any]) -> str | None:
    """The field that a column could be mapped to."""
    said = words(name)
    if bears == Bears.ANSWER:
        side = next((s for s in ("chosen", "rejected") if s in said), None)
        return side or "response"
    if {*said} & {"image", "images"}:
        return "images"
    if {*said} & {"tool", "tools", "function", "functions", *_MEDIA}:
        return None
    material = {*said} & {"context", "contexts", "document", "documents", "docs", "passage",
                          "passages", "input", "inputs", "premise"}  # fmt: skip
    if all(isinstance(v, str) for v in values):
        return "context" if material else "system"
    fits = [
        part.name
        for part in PARTS
        if part.name == ("context" if material else "history")
        and all(accepts(part.kind, v) for v in values)
    ]
    return fits[0] if fits else None


_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def _carried_field(name: str, bears: Bears | None, sample: Sample, plan: Plan) -> Field | None:
    """A column that is carried along unasked: a label or a fact about the row, or all of ours."""
    values = sample.raw(name)
    ours = plan.layout.name == "prefactory" and bears in (Bears.PROMPT, Bears.ANSWER)
    if bears not in (Bears.LABEL, Bears.ABOUT) and not ours:
        return None
    shape = plan.layout.shape
    score = _score_name(name, values) if shape == Shape.RESPONSES else None
    taken = {*plan.schema(), *plan.binding, *COLUMNS[shape], *_OURS, *_RESERVED}
    if score is not None and score not in taken:
        return Field(score, Kind.NUMBER, required=False)
    if name in taken or name in NAMES or name.startswith("_") or is_score(name):
        return None
    if all(isinstance(v, bool) for v in values) and not sample.texts_only:
        return Field(name, Kind.RAW, required=False, dtype=pl.Boolean(), carried=True)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return Field(name, Kind.NUMBER, required=False, carried=True)
    if is_short(values):
        return Field(name, Kind.PLAIN, required=False, carried=True)
    if bears == Bears.ABOUT or any(isinstance(v, str) for v in values):
        return None
    dtype = _dtype(values)
    if dtype == pl.String:
        return None
    return Field(name, Kind.RAW, required=False, dtype=dtype, carried=True)


_RESERVED = {"split", "margin", "questions", "beta", "weight", "objective", "dimension", "goal"}
"""Columns that mean something to steps or exports: they are carried only when asked for."""
_SCORE_WORDS = ("score", "rating", "reward", "grade")


def _score_name(name: str, values: list[Any]) -> str | None:
    """Our name of a score that a response table has under another (`gpt4_score`), or None."""
    said = words(name)
    if not {*said} & {*_SCORE_WORDS} or not all(is_number(v) for v in values):
        return None
    rest = [w for w in said if w not in ("score", "rating", "grade")]
    return f"score_{'_'.join(rest) or 'overall'}"


def _wanted(name: str, shape: Shape) -> bool:
    """Columns that are carried along unasked: scores and margin by our names."""
    prefixes = {Shape.PAIRS: _SIDE_SCORES, Shape.RESPONSES: ("score_",)}.get(shape, ())
    scored = bool(prefixes) and name.startswith(prefixes)
    return scored or (name == "margin" and shape == Shape.PAIRS)


def _own_field(name: str, sample: Sample) -> Field | None:
    values = sample.values((name,), Kind.NUMBER)
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
    """What holds all values; objects have the keys of all of them (Polars takes the first's)."""
    try:
        dtype = pl.Series(values, strict=True).dtype if values else pl.String()
        if dtype.is_nested():
            dtype = pl.Series(pa.array(values)).dtype
    except (TypeError, pl.exceptions.PolarsError, pa.ArrowException, OverflowError):
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
        f"{where} has no layout that is known; its columns are {_list(sample.columns)}"
        f"{_misfits(sample)}; nearest: {hints or 'none'}; name a `layout`, or say in `mapping` "
        "which columns are prompt, chosen and rejected, or prompt and response; where a column "
        "says which of two answers is better, name `layout: ab`, a, b and verdict"
    )


def _misfits(sample: Sample) -> str:
    """Columns that are called as a layout calls them, and hold values of another kind."""
    told: dict[str, str] = {}
    for field in (f for entry in LAYOUTS.values() for f in entry.fields if f.required):
        for name in field.candidates:
            values = (
                sample.raw(name) if name in ("prompt", "chosen", "rejected", "response") else []
            )
            if not values or field.kind not in SPEAKER or _is(field, (name,), sample):
                continue
            types = sorted({_TYPES.get(type(v), type(v).__name__) for v in values})
            told[name] = f"{name} holds {' and '.join(types)}, not text or messages"
    return f"; {', '.join(told.values())}" if told else ""


_TYPES = {
    int: "numbers", float: "numbers", bool: "true or false", list: "lists", dict: "objects",
    str: "texts",
}  # fmt: skip


def _list(columns: list[str]) -> str:
    names = [c if len(c) <= 40 else f"{c[:40]}..." for c in columns[:30]]
    shown = ", ".join(names) or "(none)"
    return shown if len(columns) <= 30 else f"{shown}, and {len(columns) - 30} more"
