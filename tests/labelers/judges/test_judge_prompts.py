"""What judges are told, and which settings a judge takes."""

import pytest
from pydantic import ValidationError

from labelers import Judge
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from tests.helpers import asking
from tests.labelers import judging as j

THREE = j.answers(("q", "fine"), ("q", "GOOD one"), ("q", "poor"))


def step(*functions, **fields):
    return Judge(judge=[j.judge(f) for f in functions or (j.good,)], **fields)


# -- the prompt -----


def texts(**fields):
    found = []

    def look(request):
        found.append([m["content"] for m in request.conversation])
        return '{"winner": "A"}'

    j.look = look
    j.judged(step(look, **fields), THREE)
    return found[0]


def test_the_question_says_what_is_wanted():
    system, question = texts()
    assert "serves the one who asked best" in system
    assert "a conversation and 3 answers" in question
    assert "[user]\nq\n" in question
    assert question.endswith("exactly one of [[A]], [[B]], [[C]], [[tie]].")
    assert "tie" not in texts(ties=False)[1]
    assert "First give your reasons" in texts(rationale=True)[1]
    asked = texts(form="json", rationale=True)[1]
    assert asked.endswith(
        'first "rationale", your reasons in a few sentences, then "winner", one of A, B, C, tie.'
    )
    asked = texts(mode="pairwise", strength=True)[1]
    assert "A>>B means that A is far better than B" in asked
    assert asked.endswith("exactly one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]].")


def test_criteria_and_own_texts():
    assert "- be kind\n- be brief" in texts(criteria=["be kind", "be brief"])[0]
    own = texts(prompts={"system": "Our constitution: {{ criteria | join('; ') }}"}, criteria=["a"])
    assert own[0] == "Our constitution: a"
    assert len(texts(prompts={"system": "{# none #}"})) == 1
    assert step().fingerprint() != step(prompts={"system": "x y"}).fingerprint()


def test_the_schema_goes_to_the_engine():
    seen = []

    def look(request):
        seen.append(request.sampling.json_schema)
        return '{"winner": "A"}'

    j.look = look
    j.judged(step(look, form="json"), THREE)
    assert seen[0]["properties"]["winner"]["enum"] == ["A", "B", "C", "tie"]
    j.judged(step(look, form="json", guided=False), THREE)
    assert seen[-1] is None


@pytest.mark.parametrize(
    ("enforces", "guided", "json"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_votes_are_json_where_the_engine_holds_to_a_schema(enforces, guided, json, monkeypatch):
    asked = []

    def look(request):
        asked.append((request.sampling.json_schema is not None, j.question(request)))
        return '{"winner": "A"}' if json else "[[A]]"

    j.look = look
    monkeypatch.setattr(Scripted, "enforces_schemas", enforces)
    j.judged(step(look, guided=guided), THREE)
    assert {schema for schema, _ in asked} == {json}
    assert all(("[[" in question) is not json for _, question in asked)


# -- settings -----


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"judge": []}, "at least 1"),
        ({"judge": [j.judge(j.good)] * 2}, "two judges are the same model"),
        ({"strength": True}, "needs mode: pairwise"),
        ({"keep": "winner"}, "needs mode: pairwise"),
        ({"agreement": 0}, "greater than 0"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"name": "chosen_by"}, "may not begin"),
        ({"name": "My judge"}, "match pattern"),
        ({"prompts": {"question": "{{ answer }}"}}, "did you mean 'answers'"),
        ({"form": "xml"}, "brackets"),
    ],
)
def test_wrong_settings(fields, why):
    with pytest.raises(ValidationError, match=why):
        Judge(**{"judge": [j.judge(j.good)], **fields})


def test_without_engines_or_state():
    with pytest.raises(ConfigError, match="asks a model"):
        step().fit_shard(THREE, Context())
    with pytest.raises(DataError, match="has not been fitted"):
        apply_generator(step(), "judge", THREE, Shape.RESPONSES, asking())


def test_estimates():
    (one,) = step().asks(rows=40, prompts=10)
    assert one.calls == 40
    assert one.prompt_tokens > 4 * 500
    two = step(j.good, j.bad, mode="pairwise", rounds=2).asks(rows=40, prompts=10)
    assert [a.calls for a in two] == [240, 240]  # 6 pairs x 2 orders x 2 rounds x 10 prompts
    assert step().grows(40, 10) == (30, 10)
    assert step(mode="pairwise").grows(40, 10) == (60, 10)
    assert step().asks(0, 0)[0].calls == 0
