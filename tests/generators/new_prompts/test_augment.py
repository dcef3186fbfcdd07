import json
import re

import polars as pl
import pytest
from pydantic import ValidationError

from generators import AugmentPrompts
from generators.new_prompts.augment import load_examples
from generators.new_prompts.rules import word_count
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError
from prefactory.tables import Shape, text_of
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import assistant, content, messages, prompts, system, user

HERE = __name__
WRITER, CRITIC = model("writer", f"{HERE}.writer"), model("critic", f"{HERE}.critic")
BOTH = {"writer": WRITER, "critic": CRITIC}
PAIRS = {**BOTH, "make": "pairs", "answerer": model("small", f"{HERE}.answerer")}


def block(text, name):
    return re.search(rf"--- (\w{{8}}) {name}\n(.*?)\n--- \1", text, re.S).group(2)


def writer(request):
    """To one prompt it gives the answer instead of a complement."""
    asked = request.conversation[0]["content"]
    prompt = block(asked, "request")
    if prompt == "down":
        return Failure("http_500", "down")
    if prompt == "wordy" and len(request.conversation) < 5:
        return "word " * 40
    if prompt == "What is 2 + 2?":
        return "It is 4."
    return f'"Mind the {"steps" if "coins" in asked else "facts"}."'


def critic(request):
    asked = request.conversation[0]["content"]
    prompt, complement = block(asked, "request"), block(asked, "complement")
    if prompt == "muddle":
        return "Looks fine to me."
    if prompt == "complete":
        return json.dumps({"problem": "superfluous", "reason": "all is said", "repaired": ""})
    if prompt == "long":
        return json.dumps({"problem": "conflict", "reason": "no", "repaired": "word " * 31})
    if "4" in complement:
        verdict = {"problem": "answers", "reason": "4 is the answer", "repaired": "Show the sum."}
        return json.dumps(verdict)
    return json.dumps({"problem": "none", "reason": "", "repaired": ""})


def answerer(request):
    text = request.conversation[-1]["content"]
    return "same" if text.startswith("alike") else f"So I say: {text}! {request.draw_seed}"


def judge(request):
    """Likes the answer that minds the facts; of a prompt about dogs always the first."""
    asked = request.conversation[0]["content"]
    better = "A" if "Mind the" in block(asked, "answer A") else "B"
    if "dogs" in asked:
        better = "A"
    return json.dumps({"reason": "so", "better": better})


def test_an_answer_instead_of_a_complement_is_repaired_by_the_critic():
    rows, dropped = made(AugmentPrompts(**BOTH), prompts("What is 2 + 2?"))
    assert dropped.height == 0
    row = rows.row(0, named=True)
    assert row["critique"] == {
        "ok": False, "problem": "answers", "reason": "4 is the answer", "repaired": True,
    }  # fmt: skip
    assert row["complement"] == "Show the sum."
    assert row["prompt"] == [user("What is 2 + 2?\nShow the sum.")]


def test_augmented_prompts_begin_with_the_prompt():
    table = prompts("a question ", "Zwei?", "wordy", "x").with_columns(
        prompt=messages(
            [user("a question ")],
            [system("be kind"), user("Zwei?")],
            [user("wordy")],
            [user("q"), assistant("a"), user("q")],
        ),
        category=pl.Series(["reasoning", None, "odd", None]),
    )
    rows, dropped = made(AugmentPrompts(**BOTH), table)
    assert dropped["reason"].to_list() == ["not_single_turn"]
    for row in rows.iter_rows(named=True):
        source = table.filter(pl.col("prompt_id") == row["source_prompt_id"])
        before = source["prompt"][0].to_list()
        assert row["augmented_prompt"].startswith(before[-1]["content"])
        assert row["prompt"][:-1] == before[:-1]
        assert row["prompt"][-1]["content"] == row["augmented_prompt"]
        assert word_count(row["complement"]) <= 30
        assert row["critique"]["ok"]
    told = dict(rows.select("category", "complement").iter_rows())
    assert told["reasoning"] == "Mind the steps."  # the examples of its kind were shown
    assert told["odd"] == "Mind the facts."


def test_prompts_without_a_complement_are_accounted_for():
    table = prompts("down", "muddle", "complete", "long", "fine")
    rows, dropped = made(AugmentPrompts(**BOTH), table)
    assert rows.height == 1
    assert reasons(dropped, table) == {
        "down": "http_500",
        "muddle": "unparseable",  # what no critic could be read about is never used
        "complete": "no_complement",
        "long": "repair_too_long",
    }


def test_pairs_contrast_the_answers_under_the_plain_prompt():
    table = prompts("cats", "alike", "dogs")
    rows, dropped = made(AugmentPrompts(**PAIRS), table)
    assert reasons(dropped, table) == {"alike": "same_text"}
    assert set(rows["label_source"]) == {"rule"}
    assert set(content(rows, "prompt")) == {"cats", "dogs"}
    for row in rows.iter_rows(named=True):
        assert row["chosen"][0]["content"].startswith(f"So I say: {row['augmented_prompt']}")
        assert row["rejected"][0]["content"].startswith(f"So I say: {row['prompt'][0]['content']}!")
    judged, dropped = made(AugmentPrompts(**PAIRS, judge=model("j", f"{HERE}.judge")), table)
    assert reasons(dropped, table) == {"alike": "same_text", "dogs": "not_confirmed"}
    assert set(judged["label_source"]) == {"judge"}
    assert judged["pair_id"].to_list() == rows.filter(text_of(pl.col("prompt")) == "cats")[
        "pair_id"
    ].to_list()  # fmt: skip


def copyist(request):
    """Gives back the complement of an example."""
    return "Look at it from several sides, and give everyday examples."


def refuser(request):
    repaired = "I'm sorry, but I can't help you with that request."
    return json.dumps({"problem": "answers", "reason": "", "repaired": repaired})


def test_an_examples_complement_and_a_refused_repair_are_none():
    table = prompts("Why do people keep cats?").with_columns(category=pl.lit("open_question"))
    step = AugmentPrompts(writer=model("w", f"{HERE}.copyist"), critic=CRITIC)
    assert reasons(made(step, table)[1], table) == {"Why do people keep cats?": "echo"}
    general = made(step, table.drop("category"))[0]
    assert general.height == 1  # there it is no example
    step = AugmentPrompts(writer=WRITER, critic=model("c", f"{HERE}.refuser"))
    assert reasons(made(step, table)[1], table) == {"Why do people keep cats?": "refuses"}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [BOTH, {**PAIRS, "judge": model("j", f"{HERE}.judge")}])
def test_shards_and_order_change_nothing(tmp_path, fields):
    table = prompts("down", "muddle", "wordy", "dogs", *[f"question {i}" for i in range(7)])
    assert len(cut_anyhow({"generators.AugmentPrompts": fields}, table, tmp_path)) == 1


def test_words_are_counted_in_any_script():
    assert word_count("one two, three") == 3
    assert word_count("请用三点") == 2
    assert word_count("") == 0


def test_fields_are_checked(tmp_path):
    with pytest.raises(ValidationError, match="pairs need a model that answers"):
        AugmentPrompts(writer=WRITER, make="pairs")
    with pytest.raises(ValidationError, match="go with `make: pairs`"):
        AugmentPrompts(writer=WRITER, judge=WRITER)
    own = tmp_path / "own.yaml"
    own.write_text("kind: [{request: a}]\n")
    with pytest.raises(ConfigError, match=r"kind\.0\.complement: Field required"):
        load_examples(str(own))
    own = tmp_path / "other.yaml"
    own.write_text("kind: [{request: a, complement: b}]\n")
    with pytest.raises(ConfigError, match="no kind 'general'"):
        load_examples(str(own))
    assert len(load_examples("complements")) == 12
    step = AugmentPrompts(**PAIRS, judge=WRITER)
    assert [a.calls for a in step.asks(10, 10)] == [10, 10, 20, 20]
    assert step.out_shape(Shape.PROMPTS) == Shape.PAIRS
