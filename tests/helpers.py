"""Small tables, steps, sources and recipes for the tests of the core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict

from prefactory import ledger
from prefactory.context import Context
from prefactory.identity import fingerprint
from prefactory.recipe import Sections, parse
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from prefactory.tables import COLUMNS, Shape, canonical_order
from prefactory.testing import assistant as assistant
from prefactory.testing import messages as messages
from prefactory.testing import pairs as pairs
from prefactory.testing import prompts as prompts
from prefactory.testing import responses as responses
from prefactory.testing import system as system
from prefactory.testing import texts as content  # noqa: F401
from prefactory.testing import user as user

ROOT = Path(__file__).parents[1]

# -- a source in memory -----


@dataclass(frozen=True)
class Block:
    rows: pl.DataFrame
    rejected: pl.DataFrame = field(default_factory=lambda: ledger.empty().drop("step"))
    notes: pl.DataFrame = field(default_factory=lambda: ledger.empty().drop("step"))
    broken: int = 0

    @property
    def n_records(self):
        return self.rows.height + self.rejected.height + self.broken


def rejected(*row_ids, reason="no_answer"):
    return pl.DataFrame(
        {"row_id": list(row_ids), "reason": reason, "detail": "because"},
        schema=ledger.empty().drop("step").schema,
    )


@dataclass(frozen=True)
class MemoryFile:
    name: str
    blocks: tuple[Block, ...]


class MemorySource:
    """A source whose files are lists of blocks: `MemorySource({"a.jsonl": [table, table]})`."""

    def __init__(self, files, name="memory", reads=None):
        self.name = name
        self.reads = reads if reads is not None else []
        self.files = [
            MemoryFile(n, tuple(b if isinstance(b, Block) else Block(b) for b in blocks))
            for n, blocks in files.items()
        ]
        table = self.files[0].blocks[0].rows
        self.schema = dict(table.schema)
        self.shape = next(s for s in reversed(Shape) if set(COLUMNS[s]) <= set(table.columns))

    def identity(self):
        rows = [[f.name, [b.rows.to_dicts() for b in f.blocks]] for f in self.files]
        return {"name": self.name, "rows": fingerprint(sorted(rows, key=lambda r: r[0]))}

    def read(self, file, block_rows=1000) -> Iterator[Block]:
        self.reads.append(file.name)
        yield from file.blocks


def one_file(table, name="memory"):
    return MemorySource({"a.jsonl": [table]}, name)


# -- a step that asks an engine -----


def asking(seed=0, step="step", **more):
    """A context that opens every engine config plainly: no journal, each opened once."""
    opened = {}

    def engine(config):
        key = config.fingerprint()
        if key not in opened:
            opened[key] = config.open()
        return opened[key]

    return Context(seed=seed, step=step, engine=engine, **more)


# -- recipes and runs -----


class Spec(BaseModel):
    """A source of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    license: str | None = None


class Epochs(BaseModel):
    """A training method of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = 1


SECTIONS = Sections(source=Spec, train={"dpo": Epochs})


def recipe(*steps, **head):
    data = {"name": "tiny", "source": {"path": "memory"}, "steps": list(steps), **head}
    return parse(data, Path("tiny.yaml"), [], SECTIONS)


def run(recipe, source, store, shard_rows=1000, workers=1, engine=None, embed=None, **more):
    sources = source if isinstance(source, list) else [source]
    store = store if isinstance(store, Store) else Store(Path(store))
    options = Options(workers=workers, shard_rows=shard_rows, engine=engine, embed=embed, **more)
    return execute(recipe, sources, store, thread_mapper(workers), options)


def view(result, name):
    return pl.concat(result.views[name].tables())


def ledger_of(result):
    """All ledger rows of a run, in the order of the stages."""
    parts = [result.store.read(k, t) for s in result.stages for k, t in s.ledgers]
    return pl.concat([ledger.empty(), *parts])


def digest(result):
    """Digest of every row that a run left, dropped and counted: all that may not depend on cuts."""
    rows = {str(name): view(result, name).to_dicts() for name in result.views}
    counts = [[s.label, s.rows_in, s.rows_out, s.reasons, s.notes] for s in result.stages]
    return fingerprint([rows, ledger_of(result).rows(), counts])


def in_order(result):
    tables = [(view(result, name), found.shape) for name, found in result.views.items()]
    return all(table.equals(canonical_order(table, shape)) for table, shape in tables)


# -- a run with everything in it -----

PAIRS = pairs(
    *[(f"question {i}", "good answer " + "x" * i, "bad " * (i % 5 + 1)) for i in range(12)],
    ("Question 3", "good answer to a loud question", "no"),
    ("question 4", "another answer", "bad " * 5),
)
STEPS = (
    {"tests.steps.DropLong": {"limit": 28}},
    "tests.steps.Length",
    {"tests.steps.Coin": {"rate": 0.2}},
    "tests.steps.Above",
    "tests.steps.Rank",
    "tests.steps.Shout",
)


def everything(store, shard_rows=1000, workers=1, table=PAIRS, files=2, blocks=1, seed=0):
    """Run a recipe with every kind of step on PAIRS cut into files and blocks."""
    cut = {}
    for i in range(files):
        part = table.gather_every(files, i)
        step = -(-part.height // blocks)
        cut[f"f{i}"] = [part[j : j + step] for j in range(0, part.height, step)]
    source = MemorySource(cut)
    return run(recipe(*STEPS, seed=seed), source, store, shard_rows, workers)


def many_pairs(n, seed=1):
    """Pairs with null scores, odd texts and extra columns, enough for several record batches."""
    rows = [(f"q{i} {'x' * (i % 13)}", f"good {i}", f"bad {i % 7}") for i in range(n)]
    return pairs(
        *rows,
        chosen_score_h=[None if i % 3 == seed % 3 else i / 7 for i in range(n)],
        rejected_score_h=[None if i % 5 == 0 else -i / 3 for i in range(n)],
        flag=[None if i % 11 == 0 else i % 2 == 0 for i in range(n)],
        tags=[None if i % 4 == 0 else ["t"] * (i % 3) for i in range(n)],
        margin=[float(i) for i in range(n)],
    )


# -- a model to train -----

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_llama(folder, heads=4):
    """Write a Llama with 64 dimensions and 2 layers, and its byte-level BPE tokenizer."""
    from trainers.tiny import tiny_model

    return tiny_model(folder, ["certainly please whatever go away"], heads)


def until(condition, seconds=200.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
