"""A step asks a model through `ctx.engine`: failures go where the step puts them, once per run."""

import sys
from collections import Counter

import polars as pl
import pytest

from pipelines.engines import engines
from pipelines.settings import Settings
from prefactory.engines.base import Failure, Sampling
from prefactory.engines.configs import AnyEngine
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.step import Labeler
from prefactory.store import Store
from tests.helpers import one_file, recipe, responses, view

SEEN = vars(sys).setdefault("_seen_by_grade", Counter())  # one for all copies of this module
TABLE = responses(*[(f"q{i}", f"a{i}") for i in range(20)])


def grade(request):
    text = request.conversation[-1]["content"]
    SEEN[text] += 1
    return Failure("http_500", "no") if text == "a3" else text[1:]


class Grade(Labeler):
    """Scores each response by asking the model."""

    judge: AnyEngine

    def adds(self, shape):
        return {"score_grade": pl.Float64()}

    def label(self, table, ctx):
        asked = [[*p, *r] for p, r in zip(table["prompt"], table["response"], strict=True)]
        ids = table["response_id"].to_list()
        found = ctx.engine(self.judge).generate(asked, Sampling(seed=ctx.seed), ids)
        scores = [None if isinstance(r, Failure) else float(r.text) for (r,) in found]
        return pl.DataFrame({"score_grade": pl.Series(scores, dtype=pl.Float64)})


def run(tmp_path, store, shard_rows=6):
    step = {f"{__name__}.Grade": {"judge": {"engine": "scripted", "function": f"{__name__}.grade"}}}
    with engines(Settings(tmp_path)) as session:
        options = Options(workers=4, shard_rows=shard_rows, engine=session.engine)
        mapper = thread_mapper(4)
        return execute(recipe(step), [one_file(TABLE)], Store(tmp_path / store), mapper, options)


def test_a_step_asks_once_whatever_the_shards_and_the_store(tmp_path, caplog):
    SEEN.clear()
    caplog.set_level("INFO")
    first = view(run(tmp_path, "a"), "responses")
    again = view(run(tmp_path, "b", shard_rows=100), "responses")  # another store, one journal
    assert first.equals(again)
    scores = dict(zip(TABLE["response_id"], range(20), strict=True))
    got = dict(zip(first["response_id"], first["score_grade"], strict=True))
    assert got == {k: None if v == 3 else float(v) for k, v in scores.items()}
    assert SEEN.pop("a3") == 2  # a failure is asked again
    assert set(SEEN.values()) == {1}
    assert "scripted: 19 calls, 0 from the journal, 1 failures" in caplog.text
    assert "scripted: 0 calls, 19 from the journal" in caplog.text


def test_the_engine_is_part_of_a_steps_address_but_not_of_the_recipe():
    step = Grade(judge=Scripted(answers=["x"]))
    assert step.engines() == [Scripted(answers=["x"]).identity()]
    with pytest.raises(ConfigError, match="scripted"):
        Scripted().open()
