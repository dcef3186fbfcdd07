"""Queues: which rows, in which order, with which probability; and what the command line says."""

import itertools
import json
from collections import Counter

import polars as pl
import pytest
from typer.testing import CliRunner

from pipelines.api import Recipe
from pipelines.cli.app import app
from pipelines.cli.people.review import queue_of, settings_of
from prefactory.errors import ConfigError, DataError
from review.queues import build, strata_of
from review.settings import Settings, name_of, safe_name
from review.store import open_review
from review.tasks import questions
from tests.review.conftest import some_pairs


def rows(n=400, **columns):
    table = some_pairs(n).with_columns(trust=pl.Series([(i * 37 % n) / n for i in range(n)]))
    return questions(table.with_columns(**columns), Settings())


def queue(table, **settings):
    return build(table, Settings(**settings))


def test_suspects_come_first_and_nulls_last():
    table = rows(20).with_columns(trust=pl.when(pl.col("trust") > 0.1).then("trust"))
    made = queue(table, queue="suspect")
    trust = made.join(table, on="row_id", maintain_order="left")["trust"].to_list()
    known = [t for t in trust if t is not None]
    assert known == sorted(known)
    assert trust[len(known) :] == [None] * (20 - len(known)) != []


def test_shares_are_kept_and_mixed_and_the_random_part_is_drawn_from_all_rows():
    table = rows(400)
    made = queue(table, queue={"suspect": 0.6, "random": 0.4}, rows=200)
    assert Counter(made["queue"]) == {"suspect": 120, "random": 80}
    assert made["row_id"].n_unique() == 200
    for part in range(4):
        share = (made["queue"][50 * part : 50 * part + 50] == "suspect").sum()
        assert share == 30, "parts are mixed evenly"
    drawn = made.filter(queue="random").join(table, on="row_id")
    assert Counter((drawn["trust"] * 4).floor().cast(int)) == dict.fromkeys(range(4), 20)
    assert set(drawn["inclusion"]) == {0.2}
    assert made.filter(queue="suspect")["inclusion"].null_count() == 120
    strata = strata_of(made)
    assert {s["drawn"] for s in strata.values()} == {20}
    assert {s["population"] for s in strata.values()} == {100}


def test_strata_have_thirty_rows_where_they_can():
    table = rows(1000).with_columns(trust=pl.lit(None, pl.Float64), source=pl.lit("big"))
    table = table.with_row_index("n").with_columns(
        source=pl.when(pl.col("n") < 40).then(pl.lit("small")).otherwise("source")
    )
    made = queue(table.drop("trust"), queue="random", rows=200)
    assert Counter(made["stratum"])["small"] >= 30
    assert sum(1 / i for i in made["inclusion"]) == pytest.approx(1000), "Horvitz-Thompson"


def test_every_row_is_drawn_as_often_as_it_says():
    table = rows(120)
    counts = Counter()
    for seed in range(60):
        counts.update(queue(table, queue="random", rows=24, seed=seed)["row_id"])
    assert sum(counts.values()) == 60 * 24
    assert len(counts) == 120
    assert max(counts.values()) < 30, "60 draws at a probability of .2 each"


def test_the_same_seed_gives_the_same_queue_in_whatever_order_rows_come():
    table = rows(60)
    wanted = {"queue": {"suspect": 0.5, "random": 0.5}, "rows": 30, "gold": "trust > .9"}
    one = queue(table, **wanted)
    assert one.equals(queue(table.sample(fraction=1, shuffle=True, seed=1), **wanted))
    assert not one.equals(queue(table, seed=1, **wanted))


def test_gold_rows_are_mixed_in_and_training_comes_first():
    made = queue(rows(100), gold="trust < .2", gold_share=0.1, training=5)
    assert made["purpose"][:5].to_list() == ["training"] * 5
    assert made["place"].to_list() == list(range(-5, made.height - 5))
    gold = made.filter(purpose="gold")["place"].to_list()
    assert len(gold) == 8
    assert max(b - a for a, b in itertools.pairwise(gold)) < 30, "all along the queue"
    with pytest.raises(DataError, match="50 gold rows are asked for, and 20 fit"):
        queue(rows(100), gold="trust < .2", training=50)


def test_judges_and_scores_that_disagree_come_first():
    said = [("chosen", "chosen"), ("chosen", "rejected"), ("chosen", "tie"), ("tie", "tie")]
    table = rows(4).with_columns(
        a_prefers=pl.Series([a for a, _ in said]), b_prefers=pl.Series([b for _, b in said])
    )
    ids = queue(table, queue="disagree")["row_id"].to_list()
    order = [said[table["row_id"].to_list().index(i)] for i in ids]
    assert set(order[:2]) == {("chosen", "rejected"), ("tie", "tie")}
    assert order[2:] == [("chosen", "tie"), ("chosen", "chosen")]
    scored = rows(2).with_columns(
        chosen_score_x=pl.lit(1.0), rejected_score_x=pl.lit(0.0),
        chosen_score_y=pl.Series([0.0, 2.0]), rejected_score_y=pl.lit(1.0),
    )  # fmt: skip
    assert queue(scored, queue="disagree")["row_id"][0] == scored["row_id"][0]


def test_what_the_stack_can_least_foretell_comes_first():
    table = rows(3).with_columns(margin_stack=pl.Series([2.0, -0.1, -3.0]))
    first = queue(table, queue="informative")["row_id"].to_list()
    assert first == [table["row_id"][i] for i in (1, 0, 2)]


def test_what_gains_most_comes_first_where_it_is_known():
    table = rows(3).with_columns(
        margin_stack=pl.Series([2.0, -0.1, -3.0]), gain_stack=pl.Series([0.3, None, 0.4])
    )
    first = queue(table, queue="informative")["row_id"].to_list()
    assert first == [table["row_id"][i] for i in (2, 0, 1)]


def test_a_recipe_with_a_review_puts_its_version_before_people(tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(
        json.dumps({"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No."}) + "\n"
        for i in range(5)
    ))  # fmt: skip
    recipe = tmp_path / "asked.yaml"
    plain = f"name: asked\nsource: {{path: {data}}}\nsteps: []\npublish: {{pays: false}}\n"
    recipe.write_text(plain + "review: {queue: random, rows: 3, seed: 4}\n")
    first = Recipe.from_yaml(recipe)
    home = tmp_path / "home"
    version = first.run(home)
    review = open_review(home, version.ref.replace("@", "-"))
    assert review.settings.queue == {"random": 1.0}
    assert review.meta("rows") == 3
    assert review.meta("source")["version"] == version.ref
    review.db.close()
    assert first.run(home).ref == version.ref, "nothing new: the review stays"
    recipe.write_text(plain)
    assert Recipe.from_yaml(recipe).payload([]) == first.payload([]), "it decides no rows"
    recipe.write_text(plain + "review: {queu: random}\n")
    with pytest.raises(ConfigError, match="queu"):
        Recipe.from_yaml(recipe)


def test_conditions_and_parts_that_do_not_fit_are_one_sentence():
    table = rows(10)
    assert queue(table, where="trust < .3 and source = 'test'").height == 3
    with pytest.raises(ConfigError, match=r"'trust <' is no condition.*columns are: .*trust"):
        queue(table, where="trust <")
    with pytest.raises(ConfigError, match="where: 'nothing > 1' is no condition"):
        queue(table, where="nothing > 1")
    with pytest.raises(DataError, match="the queue is empty"):
        queue(table, where="trust > 2")
    with pytest.raises(ConfigError, match=r"'informative'.*labelers.PreferenceStack"):
        queue(table, queue="informative")
    with pytest.raises(ConfigError, match=r"'suspect'.*labelers.LabelTrust"):
        queue(table.drop("trust"), queue="suspect")
    with pytest.raises(DataError, match="task 'rate' is about responses, and these rows are pairs"):
        questions(some_pairs(2), Settings(task="rate", attributes=["x"]))
    with pytest.raises(DataError, match="no column 'judge_votes' with reasons"):
        questions(some_pairs(2), Settings(task="rationale"))


def test_settings_come_from_a_file_a_recipe_and_words(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("name: x\nsteps: []\nreview:\n  queue: suspect\n  people: 2\n")
    made = settings_of(file, ["people=3", "attributes=[truth]"], {"rows": 5})
    assert (made.queue, made.people, made.rows) == ({"suspect": 1.0}, 3, 5)
    assert made.attributes == {"truth": ""}
    assert settings_of(None, None, {}) is None
    assert queue_of("suspect=.6, random=.4") == {"suspect": 0.6, "random": 0.4}
    for words, said in (
        (["peple=3"], "unknown key 'peple'; did you mean 'people'"),
        (["queue={suspect: .5}"], "shares are above 0 and add up to 1"),
        (["task=rate"], "say what answers are rated on"),
        (["training=3"], "say which by `gold`"),
    ):
        with pytest.raises(ConfigError, match=f"review: .*{said}"):
            settings_of(None, words, {})
    with pytest.raises(ConfigError, match="--queue 'a=b'"):
        queue_of("a=b")


def test_names_are_safe():
    assert safe_name("My data@2026.11/../x") == "my-data-2026.11-.-x"
    assert safe_name("../..") == "review"
    assert name_of("quickstart") == "quickstart"


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    runner = CliRunner()
    from review.store import create

    create(tmp_path, "mine", some_pairs(3), Settings(), {}).db.close()
    done = runner.invoke(app, ["review", "invite", "mine", "Ada", "Bob"])
    assert done.output.count("/join/") == 2
    assert "Ada (annotator): 0 answered" in runner.invoke(app, ["review", "status", "mine"]).output
    assert runner.invoke(app, ["review", "dismiss", "mine", "Ada"]).exit_code == 0
    assert "Ada" not in runner.invoke(app, ["review", "status", "mine"]).output
    for words, said in (
        (["review", "publish", "mine"], "nobody has voted in the review 'mine' yet"),
        (["review", "status", "mone"], "did you mean 'mine'"),
        (["review", "invite", "mine", "Al", "--role", "boss"], "no role 'boss'"),
        (["review", "nowhere.jsonl"], "nowhere.jsonl"),
    ):
        failed = runner.invoke(app, words)
        assert said in str(failed.exception), words
