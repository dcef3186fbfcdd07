import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from pipelines.api import Recipe
from pipelines.cli.app import app
from pipelines.cli.worth import _wins
from pipelines.enough import enough
from pipelines.versus import cost_per_row, versus
from prefactory.errors import DataError
from prefactory.tables import Shape, with_ids
from tests.filters.selection.test_agreement import made


def turned_round(table):
    back = {"chosen": "rejected", "rejected": "chosen"}
    other = table.select(
        *["prompt_id", "prompt", "source", "source_id"],
        *[pl.col(b).alias(a) for a, b in back.items()],
        *[pl.col(f"{b}_model").alias(f"{a}_model") for a, b in back.items()],
        "label_source",
    )
    return with_ids(other, Shape.PAIRS).select(table.columns)


def test_dropping_the_wrong_labels_teaches_more_and_it_is_said_how_it_was_judged():
    a, wrong = made(400, wrong=0.35)
    judges, _ = made(300, wrong=0, seed=9)
    b = a.filter(pl.Series(~wrong))
    found = versus(a, b, judges)
    counts = found["pairs"]
    assert (counts["b"], counts["both"], counts["only_b"]) == (b.height, b.height, 0)
    assert counts["only_a"] == wrong.sum()
    assert found["teaches"]["nested"]
    assert found["teaches"]["against_all"]["n"] == 300
    assert found["teaches"]["sentence"].startswith(f"B holds {1 - wrong.mean():.0%} of the pairs")
    assert found["longer_chosen"]["b"]["value"] == 1.0
    assert len(found["examples"]["dropped"]) == 5
    blind = versus(a, b)["teaches"]
    assert not blind["nested"]
    assert "not nested: optimistic" in blind["sentence"]


def test_pairs_that_were_turned_round_are_counted_and_shares_are_told():
    a, wrong = made(120)
    a = a.with_columns(chosen_model=pl.lit("big"), rejected_model=pl.lit("small"))
    right = a.filter(pl.Series(~wrong))
    b = pl.concat([right, turned_round(a.filter(pl.Series(wrong)))])
    found = versus(a, b.with_columns(source=pl.lit("new")))
    assert found["pairs"]["turned"] == wrong.sum()
    assert found["pairs"]["only_a"] == found["pairs"]["only_b"] == 0
    wins = {row["model"]: (row["a"], row["b"]) for row in found["wins"]["model"]}
    assert wins["big"][0] == 1.0
    assert wins["big"][1] == pytest.approx(1 - wrong.mean(), abs=1e-4)
    assert {"key": "new", "a": 0.0, "b": 1.0} in found["shares"]["source"]
    assert found["shares"]["system message"] == [{"key": "(none)", "a": 1.0, "b": 1.0}]


def test_each_model_wins_otherwise_in_each_source_value_and_system_message():
    a, _ = made(120)
    first = pl.int_range(pl.len()) < 40
    a = a.with_columns(
        source=pl.when(first).then(pl.lit("one")).otherwise(pl.lit("two")),
        value=pl.when(first).then(pl.lit("brevity")),
        prompt=pl.when(first)
        .then(pl.col("prompt"))
        .otherwise(pl.concat_list(pl.lit([system_turn(a)], a.schema["prompt"]), "prompt")),
        chosen_model=pl.when(first).then(pl.lit("big")).otherwise(pl.lit("small")),
        rejected_model=pl.when(first).then(pl.lit("small")).otherwise(pl.lit("big")),
    )
    wins = versus(a, a.head(40))["wins"]
    assert [(row["model"], row["a"], row["n_a"]) for row in wins["model"]] == [
        ("big", round(1 / 3, 4), 120),
        ("small", round(2 / 3, 4), 120),
    ]
    for name, keys in (
        ("source", ("one", "two")),
        ("value", ("brevity", None)),
        ("system message", ("(none)", "Be brief.")),
    ):
        rows = {(row["key"], row["model"]): (row["a"], row["b"], row["n_a"]) for row in wins[name]}
        assert rows == {
            (keys[0], "big"): (1.0, 1.0, 40),
            (keys[0], "small"): (0.0, 0.0, 40),
            (keys[1], "big"): (0.0, None, 80),
            (keys[1], "small"): (1.0, None, 80),
        }
    told = _wins(wins)
    assert "wins by source" in " ".join(told)
    assert any(line.startswith("Be brief.: small") for line in told)
    assert _wins({"model": [], "source": []}) == []


def system_turn(table):
    turn = dict.fromkeys(field.name for field in table.schema["prompt"].inner.fields)
    return {**turn, "role": "system", "content": "Be brief."}


def test_scores_are_held_against_the_labels_of_both():
    a, wrong = made(120)
    signs = np.where(wrong, -1.0, 1.0)
    a = a.with_columns(
        chosen_score_good=pl.Series(signs), rejected_score_good=0.0,
        chosen_score_bad=pl.Series(-signs), rejected_score_bad=0.0,
    )  # fmt: skip
    found = versus(a, a.filter(pl.Series(~wrong)))["agreement"]
    bad, good = found
    assert (bad["score"], good["score"]) == ("bad", "good")
    assert good["a"]["agreement"] == pytest.approx(1 - wrong.mean(), abs=1e-4)
    assert (good["b"]["agreement"], bad["b"]["agreement"]) == (1.0, 0.0)


def test_vectors_are_used_where_all_texts_have_some_and_none_are_made():
    a = made(150)[0]
    asked = []

    def embed(_encoder, texts):
        asked.append(texts.len())
        return np.array([[len(t), t.count("a")] for t in texts], dtype=np.float32)

    there = versus(a, a.head(75), vectors=(embed, lambda _encoder, _texts: True))
    assert there["teaches"]["features"] == "vectors and statistics"
    assert asked
    asked.clear()
    none = versus(a, a.head(75), vectors=(embed, lambda _encoder, _texts: False))
    assert none["teaches"]["features"] == "statistics"
    assert not asked


def test_a_kept_pair_costs_what_the_run_paid_by_the_pairs_it_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = made(60)[0].select("prompt", "chosen", "rejected").to_dicts()
    rows = [{c: row[c][0]["content"] for c in row} for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    version = Recipe(
        "asked",
        source="a.jsonl",
        steps=[{"labelers.JudgePairs": {"judge": {"engine": "scripted", "function": SCRIPT}}}],
        publish={"failed_judges": True},  # the script always says the first
    ).run()
    cost = version.cost()
    assert cost["calls"] == 120
    assert cost["tokens"] > 0
    per_row = cost_per_row(version, 60)
    assert per_row["calls"] == 2.0
    done = CliRunner().invoke(app, ["compare", "a.jsonl", "asked"])
    assert done.exit_code == 0, done.stdout
    assert "cost of a kept pair: A not recorded; B " in done.stdout
    assert "2.00 calls" in done.stdout


def scripted(_request):
    return "[[A]]"


SCRIPT = f"{__name__}.scripted"


@pytest.mark.slow
def test_a_learning_curve_says_how_many_pairs_are_enough_or_that_none_can_be_named():
    found = enough(made(500, wrong=0.1)[0], repeats=5)
    assert found["sizes"][0] == 0
    assert len(found["sizes"]) == len(found["accuracy"])
    assert found["accuracy"][-1] > 0.85
    noise = enough(made(500, wrong=0.5, learn=False)[0], repeats=5)
    assert noise["n_95"] is None
    assert "can't be said" in noise["sentence"]
    with pytest.raises(DataError, match="20 pairs; a learning curve needs 200"):
        enough(made(20)[0])


def test_the_commands_print_text_and_json(tmp_path):
    files = []
    for name, part in (("a", slice(0, 240)), ("b", slice(0, 100))):
        rows = made(240)[0].select("prompt", "chosen", "rejected").to_dicts()[part]
        rows = [{c: row[c][0]["content"] for c in row} for row in rows]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = CliRunner().invoke
    text = run(app, ["compare", *map(str, files)])
    assert text.exit_code == 0
    assert "A 240 pairs, B 100; 100 in both" in text.stdout
    assert "longer answer chosen: A " in text.stdout
    plain = json.loads(run(app, ["compare", *map(str, files), "--json"]).stdout)
    assert plain["pairs"]["both"] == 100
    curve = json.loads(run(app, ["enough", str(files[0]), "--repeats", "3", "--json"]).stdout)
    assert np.isfinite(curve["accuracy"]).all()
    assert "held-out accuracy" in run(app, ["enough", str(files[0]), "--repeats", "3"]).stdout
