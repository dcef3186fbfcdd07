"""Runs of recipes whose steps ask models, and texts of what they made."""

from pathlib import Path

import polars as pl

from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from tests.helpers import asking, content, one_file


def asked_run(recipe, table, folder, shard_rows=1000, workers=1, **options):
    """Run a recipe on a table, its engines opened plainly or as `engine` says."""
    settings = {"engine": asking().engine, **options}
    return execute(
        recipe,
        [one_file(table)],
        Store(Path(folder)),
        thread_mapper(workers),
        Options(workers=workers, shard_rows=shard_rows, **settings),
    )


def model(name, function, **fields):
    """A scripted engine by the import path of its function."""
    return {"engine": "scripted", "model": name, "function": function, **fields}


def said(rows, column="response"):
    """Add the text of a column of conversations as `text`."""
    return rows.with_columns(text=pl.Series(content(rows, column), dtype=pl.String))
