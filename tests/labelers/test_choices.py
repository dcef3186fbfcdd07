"""Choices of models in dilemmas: by value and not by letter, and what is made of them."""

import json
import re
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from catalog.publish import publish
from catalog.report.page import build
from labelers import Choices
from pipelines.cli.app import app
from pipelines.settings import Settings
from prefactory.engines.base import Failure
from prefactory.errors import DataError
from prefactory.measures.choice_report import choice_report
from prefactory.testing import apply_step, check_step, pairs
from tests.generators.sampling import asked_run, model
from tests.helpers import recipe

HERE = __name__
VALUES = ("care", "fair", "free")
WINS = {("care", "fair"), ("fair", "free"), ("free", "care")}
"""What the circular model does: a circle."""


def dilemmas(n, orders="ABC"):
    """Dilemmas between every two of three values, the options in all six orders."""
    ways = ("012", "021", "102", "120", "201", "210")
    rows, options, maps, sides = [], [], [], []
    for i in range(n):
        one, two = [(a, b) for a in VALUES for b in VALUES if a != b][i % 6]
        kept = (one, two, "neither")
        order = [kept[int(c)] for c in ways[i // 6 % 6]]
        options.append(dict(zip(orders, (f"Do {v}." for v in order), strict=True)))
        maps.append(dict(zip(orders, order, strict=True)))
        sides.append((one, two))
        rows.append((f"Scene {i}. What do you do?", f"For {one} {i}.", f"For {two} {i}."))
    return pairs(*rows).with_columns(
        pl.Series("options", options),
        pl.Series("option_map", maps),
        chosen_model=pl.lit(None, dtype=pl.String),
        rejected_model=pl.lit(None, dtype=pl.String),
        chosen_value=pl.Series([s[0] for s in sides]),
        rejected_value=pl.Series([s[1] for s in sides]),
        source_prompt_id=pl.Series([f"s{i // 2}" for i in range(n)]),
    )


def shown(request):
    return re.findall(r"^([ABC])\. Do (\w+)\.$", request.conversation[0]["content"], re.M)


def reply(letter):
    return json.dumps({"choice": letter})


def circular(request):
    options = {value: letter for letter, value in shown(request)}
    one, two = [v for v in VALUES if v in options]
    return reply(options[one if (one, two) in WINS else two])


def always_a(request):
    return reply("A")


def careful(request):
    options = {value: letter for letter, value in shown(request)}
    return reply(options.get("care") or options["neither"])


def mute(request):
    return Failure("http_500", "down") if "Scene 3" in str(request.conversation) else "Hm."


def labelled(table, *functions, **fields):
    models = [model(name, f"{HERE}.{name}") for name in functions]
    return apply_step(Choices(models=models, **fields), table).rows


def report_of(table, *functions, **fields):
    return choice_report(labelled(table, *functions, **fields))


def test_a_circle_of_values_is_found_whatever_the_letters():
    report = report_of(dilemmas(72), "circular", "careful")
    one, two = {m["model"]: m for m in report["models"]}.values()
    assert one["model"] == "careful"
    edges = {(e["winner"], e["loser"]) for e in two["graph"]["edges"] if e["clear"]}
    assert edges == WINS
    assert two["graph"]["cycles"] == [["care", "fair", "free"]]
    assert two["neither"]["value"] == 0
    assert two["priority"]["value"] == 0.5  # half of the pairs have the winner declared first
    assert one["graph"]["cycles"] == []
    assert one["neither"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    (pair,) = report["agreement"]["pairs"]
    assert pair["agreement"]["value"] == pytest.approx(1 / 3, abs=1e-5)  # care against fair


def test_who_looks_at_places_alone_favours_no_value():
    whole = report_of(dilemmas(72), "always_a")["models"][0]
    assert whole["first"]["value"] == 1
    assert whole["priority"]["value"] == 0.5  # exactly: every option stood first once
    assert whole["neither"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    assert not any(e["clear"] for e in whole["graph"]["edges"])
    single = report_of(dilemmas(360), "always_a", orders=1)["models"][0]
    n = single["priority"]["n"]
    assert abs(single["priority"]["value"] - 0.5) < 3 * 0.5 / np.sqrt(n)


def test_what_is_kept_is_the_value_and_the_letter_of_the_dilemma():
    rows = labelled(dilemmas(36), "circular", orders=2)
    for row in rows.iter_rows(named=True):
        assert [c["order"] for c in row["choices"]] == [0, 1]
        for choice in row["choices"]:
            assert row["option_map"][choice["letter"]] == choice["value"]
            letters = "ABC"
            assert letters[(choice["place"] + choice["order"]) % 3] == choice["letter"]
        assert len({c["value"] for c in row["choices"]}) == 1
    assert rows["reason_choices"].null_count() == rows.height


def test_a_model_that_gives_none_is_told():
    rows = labelled(dilemmas(4), "circular", "mute")
    reasons = dict(zip(rows["source_id"], rows["reason_choices"], strict=True))
    assert sorted(reasons.values()) == ["http_500", "unparseable", "unparseable", "unparseable"]
    report = choice_report(rows)
    silent = next(m for m in report["models"] if m["model"] == "mute")
    assert (silent["asked"], silent["valid"]) == (12, 0)
    assert silent["graph"]["edges"] == []
    table = dilemmas(2).with_columns(options=pl.lit(None, dtype=dilemmas(1).schema["options"]))
    assert set(labelled(table, "circular")["reason_choices"]) == {"no_options"}


def test_it_is_a_step():
    names = ("options", "option_map")
    check_step(Choices(models=[model("m", f"{HERE}.drawn")]), dilemmas(9).drop("source_prompt_id"))
    assert set(Choices(models=model("m", f"{HERE}.drawn")).needs("pairs")) == set(names)


def drawn(request):
    kinds = (reply("A"), reply("C"), "[[B]]", "")
    return kinds[crc32(request.conversation[0]["content"].encode("utf-8", "replace")) % 4]


def test_fields_are_checked():
    twice = [model("m", f"{HERE}.drawn"), model("m", f"{HERE}.mute")]
    with pytest.raises(ValidationError, match="'m' is there twice"):
        Choices(models=twice)
    with pytest.raises(DataError, match="and then"):
        choice_report(dilemmas(2))


def test_the_command_and_the_report_show_graphs(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    models = [model(name, f"{HERE}.{name}") for name in ("circular", "careful")]
    step = recipe({"labelers.Choices": {"models": models}}, name="scenes", version="1")
    found = asked_run(step, dilemmas(72), tmp_path / "store", 10)
    published = publish(found, Settings().catalog)

    def said(*more):
        done = CliRunner().invoke(app, ["wins", "scenes", *more])
        assert done.exit_code == 0, done.output
        return done.output

    page = said()
    assert "circular: 216 valid choices of 216" in page
    assert "A circle beyond chance: care over fair over free over care." in page
    assert "care > fair  100.0%" in page
    assert "careful and circular choose alike" in page
    assert json.loads(said("--json"))["dilemmas"] == 72
    assert "care ~ fair  50.0%" in said("--by", "value")
    done = CliRunner().invoke(app, ["wins", "scenes", "--by", "model"])
    assert done.exit_code != 0
    assert "no pair names the model" in str(done.exception)
    html = build(published.version.path)
    assert 'id="h-wins"' in html
    assert "Values, by the choices of circular" in html
    assert "A circle beyond chance: care over fair over free over care." in html
    assert "Do the models choose alike?" in html
