"""Rows are tokenised once: what TRL made of them is kept by its content, and memory-mapped."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainingArguments

from prefactory.errors import ConfigError
from prefactory.folders import CHECKSUMS, damaged, new_folder
from prefactory.identity import fingerprint
from trainers.base import package_versions
from trainers.processes import first

_LOG = logging.getLogger(__name__)
_BASE = {f.name for f in fields(TrainingArguments)}
_MORE = ("seed", "per_device_train_batch_size")
"""Options of every trainer that change the rows: the shuffle, and KTO's mismatched answers."""


def once(trainer: Callable[..., Any], cache: Path | None) -> Callable[..., Any]:
    """A trainer that looks its tokenised rows up before it makes them.

    Args:
        trainer: a class of TRL's trainers or a `partial` of one, called with names. One that is
            given its rows as tokens stays as it is.
        cache: folder of the rows; None: nothing is kept.
    """
    cls: Any = trainer.func if isinstance(trainer, partial) else trainer
    if hasattr(cls, "tokenize_row") and cache is not None:
        return _mapping(trainer, cls, cache)
    if not hasattr(cls, "_prepare_dataset"):
        return trainer

    class Once(cls):  # type: ignore[misc]  # the class is only known here
        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:  # noqa: ANN401
            """Where every process finds what the first one writes, not each in its own folder."""
            folder = Path(self.args.output_dir)
            dataset._get_cache_file_path = lambda key: str(folder / f"reference-{name}-{key}.arrow")
            return super()._precompute_ref_logps(dataset, name, batch_size)

        def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, *more: Any) -> Any:  # noqa: ANN401
            def make() -> Any:  # noqa: ANN401
                return super(Once, self)._prepare_dataset(dataset, tokenizer, args, *more)

            if cache is None:
                return make()
            return _kept(cache / _key(cls, dataset, tokenizer, args, more), make)

    Once.__name__, Once.__qualname__ = cls.__name__, cls.__qualname__
    if isinstance(trainer, partial):
        return partial(Once, *trainer.args, **trainer.keywords)
    return Once


def _kept(place: Path, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - a datasets.Dataset
    """Rows of a folder, memory-mapped; they are made and kept there if it is not there."""
    if first() and damaged(place / CHECKSUMS):
        _LOG.warning("tokenised rows are damaged and made again: %s", place)
        shutil.rmtree(place)
    if place.is_dir():
        _LOG.info("tokenised rows: %s", place)
        return datasets.load_from_disk(str(place))
    made = make()
    if first():
        try:
            with new_folder(place, ConfigError) as folder:
                made.save_to_disk(str(folder))
        except (ConfigError, OSError):  # another run was faster, or the disk is full
            return made
        return datasets.load_from_disk(str(place))
    return made


def _mapping(trainer: Callable[..., Any], cls: Any, cache: Path) -> Callable[..., Any]:  # noqa: ANN401
    """A trainer that tokenises in its constructor (CPO, ORPO), given rows that know their place."""

    def make(**given: Any) -> Any:  # noqa: ANN401
        for name in ("train_dataset", "eval_dataset"):
            if (rows := given.get(name)) is not None:
                key = _key(cls, rows, given["processing_class"], given["args"], ())
                given[name] = _Mapped(rows, cache / key)
        return trainer(**given)

    return make


class _Mapped:
    """Rows whose maps run when the last one, `tokenize_row`, is asked for and not kept already."""

    def __init__(self, rows: Any, place: Path) -> None:  # noqa: ANN401
        self.rows, self.place = rows, place
        self.steps: list[tuple[Callable[..., Any], dict[str, Any]]] = []

    def map(self, function: Callable[..., Any], **options: Any) -> Any:  # noqa: ANN401
        """Remember a map; after the last one return the rows."""
        self.steps.append((function, options))
        return self if function.__name__ != "tokenize_row" else _kept(self.place, self._made)

    def _made(self) -> Any:  # noqa: ANN401
        rows = self.rows
        for function, options in self.steps:
            rows = rows.map(function, **options)
        return rows


def _key(cls: Any, dataset: Any, tokenizer: Any, args: Any, more: tuple[Any, ...]) -> str:  # noqa: ANN401
    """What the tokenised rows depend on: texts, tokenizer, template, options, versions."""
    text = hashlib.blake2b(digest_size=16)
    for batch in dataset.with_format("arrow").iter(1000):
        for column in batch.columns:
            for value in column.to_pylist():
                text.update(repr(value).encode("utf-8", "surrogatepass"))
    plain = {
        name: repr(value)
        for name, value in asdict(args).items()
        if name not in _BASE or name in _MORE
    }
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(
        tokenizer.get_vocab().items()
    )  # fmt: skip
    parts = [
        cls.__qualname__, text.hexdigest(), dataset.column_names, plain, repr(more),
        hashlib.blake2b(repr(words).encode()).hexdigest(), tokenizer.chat_template,
        tokenizer.pad_token, package_versions("trl", "transformers", "datasets"),
    ]  # fmt: skip
    return fingerprint(parts)[:32]
