"""Which answers of which models a step used: what its rows cost, whoever paid for them.

A table per object of the store, one row an answer. Summed over the objects of a step, each answer
once, it is the same whatever the shards, and whether a run was killed, resumed or reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from prefactory.engines.base import Completion, EngineConfig
from prefactory.measures.watcher import Watcher

TABLE = "calls"
SCHEMA: dict[str, pl.DataType] = {
    "engine": pl.String(),
    "key": pl.Binary(),
    "model": pl.String(),
    "role": pl.String(),
    "metered": pl.Boolean(),
    "price_share": pl.Float64(),
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
}
"""Engine: its fingerprint, the folder of its journal. Key: of the answer there, 16 bytes."""
_BY = ("model", "role", "metered", "price_share")


class StepCalls:
    """The answers that a step used for one shard.

    Attributes:
        doubts: those that could not be used, counted by reason.
        watchers: of the judges that were asked, by name.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._calls: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.doubts: Counter[str] = Counter()
        self.watchers: dict[str, Watcher] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def note(
        self, engine: str, key: str, config: EngineConfig, role: str, answer: Completion
    ) -> None:
        """Take an answer; the same again is one."""
        told = (answer.prompt_tokens, answer.completion_tokens)
        self._calls[engine, key] = (
            config.model, role, type(config).metered, config.price_share, *told
        )  # fmt: skip

    def doubt(self, reason: str) -> None:
        """Count an answer that could not be used."""
        self.doubts[reason] += 1

    def watcher(self, judge: str) -> Watcher:
        """What is heard and counted of a judge, by its name."""
        return self.watchers.setdefault(judge, Watcher(judge))

    def watched(self) -> list[dict[str, Any]]:
        """What was counted of all judges, by name (`prefactory.measures.judge_watch`)."""
        return [own for _, w in sorted(self.watchers.items()) for own in w.watched()]

    def table(self) -> pl.DataFrame:
        """The answers by engine and key, see `SCHEMA`."""
        rows = [
            (engine, bytes.fromhex(key), *call)
            for (engine, key), call in sorted(self._calls.items())
        ]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def summed(tables: Sequence[pl.DataFrame]) -> list[dict[str, Any]]:
    """Calls and tokens by model and role, each answer once however many tables hold it.

    Returns:
        Rows of `model`, `role`, `metered`, `price_share`, `calls`, `prompt_tokens`,
        `completion_tokens`, sorted by the first two.
    """
    if not tables:
        return []
    answers = pl.concat(tables).unique(("engine", "key", "role"))
    sums = answers.group_by(_BY).agg(
        pl.len().alias("calls"), pl.sum("prompt_tokens"), pl.sum("completion_tokens")
    )
    return sums.sort(_BY).to_dicts()
