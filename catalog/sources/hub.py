"""Datasets on the Hugging Face hub, streamed through the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catalog.sources.chunks import Chunk
from catalog.sources.columnar.read import table_chunks
from catalog.sources.spec import SourceFile, SourceSpec
from prefactory.errors import DataError


def hub_revision(dataset: str, revision: str | None) -> str:
    """Commit that a revision (or the default branch) of a hub dataset is now.

    Raises:
        DataError: the hub can't be reached or doesn't know the dataset.
    """
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(dataset, revision=revision)
    except Exception as error:  # the client raises errors of several libraries
        raise _unreachable(dataset, error) from error
    return str(info.sha)


def hub_splits(spec: SourceSpec, dataset: str, commit: str) -> tuple[SourceFile, ...]:
    """One `SourceFile` for each split (or for the one that the spec names), sorted by name."""
    if spec.split is not None:
        return (SourceFile(spec.split, dataset, -1),)
    loaded = _load(dataset, spec.config, commit, None)
    if not isinstance(loaded, dict):
        return (SourceFile(str(loaded.split or "train"), dataset, -1),)
    return tuple(SourceFile(name, dataset, -1) for name in sorted(loaded))


def hub_chunks(
    spec: SourceSpec, file: SourceFile, rows: int, columns: set[str] | None, commit: str
) -> Iterator[Chunk]:
    """Stream a split in chunks of at most `rows` records."""
    reading = spec.reading
    loaded = _load(file.url, spec.config, commit, file.name)
    known = loaded.column_names
    if columns is not None and known:
        loaded = loaded.select_columns([c for c in known if c in columns])
    try:
        batches = loaded.with_format("arrow").iter(batch_size=rows)
        yield from table_chunks(batches, rows, reading=reading)
    except ConnectionError as error:
        raise _unreachable(file.url, error) from error


def _load(dataset: str, config: str | None, commit: str, split: str | None) -> Any:  # noqa: ANN401
    import datasets

    try:
        return datasets.load_dataset(
            dataset, name=config, split=split, revision=commit, streaming=True
        )
    except Exception as error:  # offline, missing, gated, a bad config: errors of many classes
        raise _unreachable(dataset, error) from error


def _unreachable(dataset: str, error: Exception) -> DataError:
    line = (str(error) or type(error).__name__).split("\n", 1)[0]
    return DataError(
        f"hub dataset {dataset!r} can't be opened: {line}; download it where the hub can be "
        "reached, and give the path of its folder here"
    )
