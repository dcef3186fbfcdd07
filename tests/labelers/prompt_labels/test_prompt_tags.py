"""Prompt tags: votes and their agreement, one question a prompt, all three tables."""

import json
import re
import zlib

import polars as pl
import pytest

from labelers.prompt_labels import axes as tag_axes
from labelers.prompt_labels.axes import AXES, Axis, fold
from labelers.prompt_labels.tags import PromptTags, agreed
from prefactory.apply import apply_labeler
from prefactory.engines import serving
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError
from prefactory.measures.coverage import coverage, joint_cells
from prefactory.tables import Shape
from tests.helpers import asking, pairs, prompts, recipe, responses
from tests.prefactory.engines.mock_server import MockServer, answer, chat

HERE = __name__
GOOD = {
    "ability": "coding",
    "attributes": [],
    "domains": ["technology"],
    "language": "en",
    "difficulty": "easy",
    "constraints": "none",
}


def tagger(function, **fields):
    return PromptTags(tagger={"engine": "scripted", "function": f"{HERE}.{function}"}, **fields)


def request_text(conversation):
    text = conversation[1]["content"]
    return re.search(r"<<< request (\w+)\n(.*?)\n>>> request \1", text, re.DOTALL)[2]


def by_text(request):
    """Tags that are a function of the prompt."""
    code = zlib.crc32(request_text(request.conversation).encode())
    level = list(tag_axes.DIFFICULTY)[code % 3]
    return json.dumps({**GOOD, "difficulty": level})


def expected(prompt):
    return list(tag_axes.DIFFICULTY)[zlib.crc32(f"[user]\n{prompt}".encode()) % 3]


def label(step, table, shape, ctx=None):
    out = apply_labeler(step, "labelers.PromptTags", table, shape, ctx or asking())
    return table.hstack(out.drop(out.columns[0]))


# -- votes -----


def vote(**changes):
    return {k: tuple(v) if isinstance(v, list) else (v,) for k, v in {**GOOD, **changes}.items()}


def test_votes_that_agree():
    found = agreed([vote()] * 3, AXES, 3)
    assert found == (vote(), 1.0)


def test_the_majority_wins_and_the_most_disputed_axis_counts():
    votes = [vote(), vote(difficulty="difficult"), vote(domains=["law", "technology"])]
    tags, confidence = agreed(votes, AXES, 3)
    assert (tags["difficulty"], tags["domains"]) == (("easy",), ("technology",))
    assert confidence == 2 / 3


def test_three_opinions_agree_by_a_third_and_the_first_of_the_axis_wins():
    votes = [vote(difficulty=d) for d in ("difficult", "intermediate", "easy")]
    tags, confidence = agreed(votes, AXES, 3)
    assert (tags["difficulty"], confidence) == (("easy",), 1 / 3)


def test_half_of_the_votes_is_no_majority_for_a_category():
    votes = [vote(domains=["law", "technology"])] * 2 + [vote(domains=["technology"])] * 2
    tags, confidence = agreed(votes, AXES, 4)
    assert (tags["domains"], confidence) == (("technology",), 0.5)


def test_unreadable_votes_agree_with_nothing():
    assert agreed([vote()], AXES, 3)[1] == 1 / 3
    assert agreed([], AXES, 3) == (None, None)


def test_free_tags_by_how_often_they_are_named():
    votes = [{**vote(), "tags": t} for t in (("b", "a"), ("c",), ("c", "b"))]
    assert agreed(votes, AXES, 3, free=2).tags["tags"] == ("b", "c")


# -- reading -----


def test_reading_an_answer():
    text = "Sure.\n```json\n" + json.dumps({**GOOD, "Domains": ["Law", "daily life"]}) + "\n```"
    text = text.replace('"domains": ["technology"], ', "")
    assert tag_axes.read(text, AXES, 0) == vote(domains=["daily_life", "law"])
    assert tag_axes.read(json.dumps({**GOOD, "language": "pt-BR"}), AXES, 0)["language"] == ("pt",)
    free = tag_axes.read(
        json.dumps({**GOOD, "tags": ["Python-Coding", "python  coding", ""]}), AXES, 4
    )
    assert free["tags"] == ("python coding",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"difficulty": "hard"}, "difficulty must be one of easy, .* not 'hard'"),
        ({"difficulty": ["easy", "difficult"]}, "difficulty needs exactly one"),
        ({"difficulty": None}, "difficulty must be one of"),
        ({"domains": ["law", "arts", "food", "health"]}, "domains may have at most 3"),
        ({"language": "English"}, "language must be a code"),
        ({"mood": "good"}, "Nobody asked for mood"),
        ({"tags": 7}, "Nobody asked for tags"),
    ],
)
def test_refused_with_a_sentence(changes, why):
    with pytest.raises(ValueError, match=f"(?s){why}.*of this form"):
        tag_axes.read(json.dumps({**GOOD, **changes}), AXES, 0)


def test_folding():
    texts = ["Python-Coding", "C++", "C#", ".NET ", "a_b", "Éa, b!", "..", "日本語"]
    assert [fold(t) for t in texts] == [
        "python coding",
        "c++",
        "c#",
        "net",
        "a b",
        "éa b",
        "",
        "日本語",
    ]


def test_schema_and_form():
    found = tag_axes.schema(AXES, 8)
    assert found["required"] == [*GOOD, "tags"]
    assert found["properties"]["difficulty"] == {
        "type": "string",
        "enum": ["easy", "intermediate", "difficult"],
    }
    assert found["properties"]["tags"]["maxItems"] == 8
    assert "enum" not in found["properties"]["language"]


# -- the step -----


def test_each_distinct_prompt_is_asked_once_in_every_table():
    ctx, step = asking(), tagger("by_text", votes=1)
    rows = responses(("p", "a"), ("p", "b"), ("q", "a"), ("p", "c"))
    out = label(step, rows, Shape.RESPONSES, ctx)
    assert ctx.engine(step.tagger).calls == 2
    assert out["tag_difficulty"].to_list() == [expected(t) for t in "ppqp"]
    assert out["tag_domains"].to_list() == [["technology"]] * 4
    assert out["tag_attributes"].to_list() == [[]] * 4
    assert out["tag_confidence"].to_list() == [1.0] * 4
    assert not out["tag_review"].any()
    two = label(step, pairs(("q", "x", "y"), ("p", "x", "y")), Shape.PAIRS)
    assert two["tag_difficulty"].to_list() == [expected("q"), expected("p")]
    one = label(step, prompts("q", "p"), Shape.PROMPTS)
    assert one["tag_difficulty"].to_list() == [expected("q"), expected("p")]
    assert label(step, prompts("q").clear(), Shape.PROMPTS).height == 0


def doubtful(request):
    if "broken" in request_text(request.conversation):
        return Failure("http_500", "oops")
    if "silent" in request_text(request.conversation):
        return "I can't."
    level = list(tag_axes.DIFFICULTY)[request.sample]
    return json.dumps({**GOOD, "difficulty": level, "tags": [f"Tag {request.sample % 2}"]})


def test_doubtful_and_broken_rows_go_to_review():
    step = tagger("doubtful", free=1, attempts=1)
    out = label(step, prompts("odd", "broken", "silent"), Shape.PROMPTS)
    assert out["tag_confidence"].to_list() == [1 / 3, None, None]
    assert out["tag_review"].to_list() == [True, True, True]
    assert out["reason_tag"].to_list() == [None, "http_500", "unparseable"]
    assert out["tag_free"].to_list() == [["tag 0"], None, None]
    assert out["tag_ability"].to_list() == ["coding", None, None]
    relaxed = tagger("doubtful", free=1, attempts=1, review_below=0.3)
    assert not label(relaxed, prompts("odd"), Shape.PROMPTS)["tag_review"].any()


def test_tags_feed_coverage():
    step = tagger("by_text", votes=1)
    out = label(step, prompts(*[f"p{i}" for i in range(60)]), Shape.PROMPTS)
    levels = list(tag_axes.DIFFICULTY)
    found = coverage(out["tag_difficulty"], levels, dict.fromkeys(levels, 1))
    assert found.table["support"].sum() == 60
    assert found.entropy > 0.9
    cells = joint_cells(out, {"tag_ability": ["coding", "writing"], "tag_domains": ["technology"]})
    assert cells["support"].to_list() == [60, 0]


def own(request):
    return '{"tone": "Very warm"}'


def test_axes_of_ones_own_and_plan():
    axes = [{"name": "tone", "description": "mood", "values": ["cold", "very warm"]}]
    step = tagger("own", axes=axes, name="mood", votes=2)
    out = label(step, prompts("p"), Shape.PROMPTS)
    assert out["mood_tone"].to_list() == ["very warm"]
    assert step.asks(100, 7)[0].calls == 14
    assert step.fingerprint() != tagger("own", axes=[*axes, AXES[0]], name="mood").fingerprint()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": {"temperature": 0}}, "set sampling.temperature"),
        ({"axes": [{"name": "review", "description": "x"}]}, "not confidence, review or free"),
        ({"axes": [{"name": "tags", "description": "x"}]}, "taken by the free tags"),
        ({"axes": [{"name": "x", "description": "x", "values": ["a b", "A-B"]}]}, "the same"),
        ({"axes": []}, "at least 1"),
        ({"free": 99}, "32"),
    ],
)
def test_mistakes_are_found_with_the_recipe(fields, message):
    data = {"tagger": {"engine": "scripted", "function": f"{HERE}.own"}, **fields}
    with pytest.raises(ConfigError, match=message):
        recipe({"labelers.PromptTags": data})
    assert Axis(name="x", description="y").values == {}


def test_tags_over_http_with_faults_stay_with_their_prompts(monkeypatch):
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)

    def behave(body, times):
        text = request_text(body["messages"])
        code = zlib.crc32(text.encode())
        good = answer(chat(json.dumps({**GOOD, "difficulty": list(tag_axes.DIFFICULTY)[code % 3]})))
        faults = {
            0: ("status", (429, {}, b"")),
            1: ("cut", good),
            2: ("reset", None),
            3: ("ok", answer(chat('{"ability": "coding"}'))),
            4: ("late", (0.1, good)),
        }
        first = times == 1 and len(body["messages"]) == 2
        return faults.get(code % 7, ("ok", good)) if first else ("ok", good)

    texts = [f"prompt {i}" for i in range(60)]
    with MockServer(behave) as server:
        config = {"engine": "server", "base_url": server.url, "model": "m", "timeout_s": 100}
        step, ctx = PromptTags(tagger=config), asking()
        out = label(step, prompts(*texts), Shape.PROMPTS, ctx)
        ctx.engine(step.tagger).close()
    assert out["tag_difficulty"].to_list() == [expected(t) for t in texts]
    assert (out["tag_confidence"] == 1).all()
    assert out["reason_tag"].null_count() == out.height
    assert out.schema["tag_attributes"] == pl.List(pl.String)
