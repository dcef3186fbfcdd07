"""Plain functions as steps: called by the names of columns, identified by their source."""

from __future__ import annotations

import textwrap

import polars as pl
import pytest
from pydantic import ValidationError

import filters
import labelers
from prefactory import Shape
from prefactory.errors import ConfigError, DataError
from prefactory.plan import plan
from prefactory.recipe import load
from prefactory.testing import apply_step, example, pairs, prompts, responses
from tests.helpers import SECTIONS

LIMIT = 20
TABLE = responses(("q", "see https://a.example"), ("q", "short"), ("p", "longer than 20 letters"))


def no_urls(response, most=0):
    return response.str.count_matches("https?://") <= most


def why(table, prompt):
    return pl.when(pl.lit(prompt) == "p").then(pl.lit("is p"))


def short(response):
    return [bounded(text) for text in response]


def bounded(text):
    return len(text) <= LIMIT


def sided(chosen, rejected):
    return chosen != rejected


def length(response):
    return response.str.len_chars()


def same(response):
    return response


def high(score_x):
    return score_x > 1


def all_of(table):
    return True


def any_of(*columns):
    return columns


def test_true_keeps_and_null_goes_under_the_name_of_the_function():
    found = apply_step(filters.Rule(no_urls), TABLE)
    assert set(found.reasons.values()) == {"no_urls"}
    assert apply_step(filters.Rule(no_urls, options={"most": 1}), TABLE).dropped.height == 0
    named = filters.Rule(no_urls, reason="links")
    assert set(apply_step(named, TABLE).reasons.values()) == {"links"}
    scored = TABLE.with_columns(score_x=pl.Series([None, 0.0, 2.0]))
    assert apply_step(filters.Rule(high), scored).rows["score_x"].to_list() == [2.0]


def test_texts_are_reasons_and_lists_and_expressions_are_taken():
    assert set(apply_step(filters.Rule(why), TABLE).reasons.values()) == {"is p"}
    assert apply_step(filters.Rule(short), TABLE).dropped.height == 2


def test_columns_decide_the_shapes_and_answers_of_pairs_are_judged_on_both_sides():
    assert filters.Rule(no_urls).takes() == (Shape.RESPONSES,)
    assert filters.Rule(sided).takes() == (Shape.PAIRS,)
    assert filters.Rule(high).takes() == (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    table = pairs(("q", "https://a.example", "b"), ("p", "a", "a"))
    assert apply_step(filters.Rule(no_urls), table).dropped["detail"].to_list() == ["chosen: "]
    assert apply_step(filters.Rule(sided), table).dropped.height == 1
    both = apply_step(labelers.Rule(length), table).rows
    scores = both.select("chosen_score_length", "rejected_score_length").rows()
    assert sorted(scores) == [(1, 1), (17, 1)]


def test_a_column_of_any_type():
    found = apply_step(labelers.Rule(no_urls, name="plain", type="boolean"), TABLE).rows
    assert sorted(found["plain"].to_list()) == [False, True, True]
    with pytest.raises(DataError, match="which can't be Float64"):
        apply_step(labelers.Rule(same), TABLE)


MODULE = """
import re
LIMIT = 3
URL = re.compile("http")
def rule(response):
    return inner(response) & (len(URL.pattern) > 1)
def inner(response):
    return response.str.len_chars() < LIMIT
"""


def test_an_edited_function_or_value_is_another_step_and_the_rest_of_its_module_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)

    def digest(name, text):
        (tmp_path / f"rule_{name}.py").write_text(text)
        return filters.Rule(f"rule_{name}.rule").function.digest

    first = digest("first", MODULE)
    assert digest("same", MODULE + "OTHER = 1  # the end\n") == first
    edits = [("> 1", "> 2"), ("< LIMIT", "<= LIMIT"), ("= 3", "= 4"), ('"http"', '"https"')]
    digests = {digest(f"edit{i}", MODULE.replace(*e)) for i, e in enumerate(edits)}
    assert len({first, *digests}) == 5


def test_python_and_yaml_name_the_same_step():
    path = f"{__name__}.no_urls"
    assert filters.Rule(no_urls).fingerprint() == filters.Rule(function=path).fingerprint()
    assert filters.Rule(no_urls).model_dump(mode="json")["function"] == path


def above(least):
    def rule(response):
        return response.str.len_chars() > least

    return rule


def test_what_a_closure_holds_is_part_of_it_and_what_has_no_form_is_refused():
    marks = {filters.Rule(above(n)).fingerprint() for n in (1, 1, 2)}
    assert len(marks) == 2
    with pytest.raises(ConfigError, match="holds 'least', a object, by which it can't be"):
        filters.Rule(above(object())).identity()


def test_a_lambda_is_identified_where_it_stands_alone_on_its_line():
    one = filters.Rule(lambda response: response != "short")
    other = filters.Rule(lambda response: response != "long")
    assert one.fingerprint() != other.fingerprint()
    assert apply_step(one, TABLE).dropped.height == 1
    two = (lambda response: response != "a", lambda response: response != "b")
    with pytest.raises(ConfigError, match=r"\(here are 2\): write it with `def`"):
        filters.Rule(two[0]).identity()
    typed = {"__name__": "typed"}
    exec("f = lambda response: response == ''\ndef g(response): return response", typed)
    for function in (typed["f"], typed["g"]):
        with pytest.raises(ConfigError, match="`def`"):
            filters.Rule(function).identity()


def test_mistakes_are_sentences():
    with pytest.raises(ValidationError, match="give a function or its import path"):
        filters.Rule(len)
    with pytest.raises(ValidationError, match="no import path such as"):
        filters.Rule("no path")
    with pytest.raises(ConfigError, match=r"can't import 'nowhere\.rule'"):
        filters.Rule("nowhere.rule").needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match="has no parameter 'least'"):
        filters.Rule(no_urls, options={"least": 1}).needs(Shape.RESPONSES)
    with pytest.raises(DataError, match="asks for 'score_x', which the table does not have"):
        apply_step(filters.Rule(high), TABLE)
    with pytest.raises(DataError, match="returned UInt32; a rule returns Boolean"):
        apply_step(filters.Rule(length), TABLE)
    with pytest.raises(DataError, match="it must return a Series, an expression or a list of 1"):
        apply_step(filters.Rule(all_of), prompts("q"))
    with pytest.raises(ConfigError, match="must be columns, `table` or `ctx`"):
        filters.Rule(any_of).needs(Shape.PROMPTS)


RULES = """
import filters

def plain(response):
    return response != "a"

@filters.Rule
def short(response):
    return response.str.len_chars() < 9
"""


def test_a_recipe_names_a_function_beside_it_or_a_decorated_one(tmp_path):
    (tmp_path / "my_rules.py").write_text(textwrap.dedent(RULES))

    def recipe(steps):
        (tmp_path / "r.yaml").write_text(f"name: x\nsource: {{path: a}}\nsteps: {steps}\n")
        return load(tmp_path / "r.yaml", [], SECTIONS)

    made = recipe("[{filters.Rule: {function: my_rules.plain}}, my_rules.short]")
    assert [p.label for p in made.steps] == ["filters.Rule", "my_rules.short"]
    table = example(Shape.RESPONSES)
    planned = plan(made, Shape.RESPONSES, dict(table.schema))
    assert [p.kind for p in planned] == ["filter", "filter"]
    assert made.steps[1].step.function.path == "my_rules.short"
    assert apply_step(made.steps[1].step, table).dropped.height == table.height
    with pytest.raises(ConfigError, match=r"line 3: 'my_rules\.plain' is a plain function: write"):
        recipe("[my_rules.plain]")
    with pytest.raises(ConfigError, match=r"line 3: my_rules\.short is a step with its fields"):
        recipe("[{my_rules.short: {reason: x}}]")
    lost = recipe("[{filters.Rule: {function: my_rules.lost}}]")
    with pytest.raises(ConfigError, match=r"line 3: filters\.Rule can't run on responses: .*lost"):
        plan(lost, Shape.RESPONSES, dict(table.schema))
