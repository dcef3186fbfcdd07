import json
import re

import pytest
from pydantic import ValidationError

from generators import SelfInstruct
from prefactory.engines.base import Failure
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import model
from tests.helpers import assistant, content, messages, prompts, user

HERE = __name__
WRITER = model("writer", f"{HERE}.writer")
WORDS = [
    "river",
    "lamp",
    "cheese",
    "train",
    "violin",
    "garden",
    "window",
    "saddle",
    "ocean",
    "kettle",
]


def examples(text):
    return re.findall(r"--- \w{8} request \d+\n(.*?)\n(?=\n?---)", text, re.S)


def fresh(number):
    """Six words that hardly any other number has."""
    return f"Explain {WORDS[number % 9]}{number} and {WORDS[number // 9 % 9]}{number} today"


def writer(request):
    asked = request.conversation[0]["content"]
    seed = request.draw_seed
    first = examples(asked)[0]
    if first == "down":
        return Failure("http_503", "busy")
    if first == "mute":
        return '{"requests": []}'
    if first == "bad":
        return json.dumps({"requests": ["a b", "bad", "draw me a picture of it", "word " * 200]})
    if first == "echo":
        return json.dumps({"requests": [examples(asked)[-1]]})
    return json.dumps({"requests": [fresh(seed % 1000 + i) for i in range(3)]})


def test_new_prompts_come_with_the_examples_they_were_shown():
    table = prompts(*[f"seed number {i} of the pool" for i in range(6)])
    step = SelfInstruct(writer=WRITER, n=2, shots=3)
    rows, dropped = made(step, table)
    assert dropped.height == 0
    assert rows.height == 12
    assert rows.group_by("source_prompt_id").len()["len"].to_list() == [2] * 6
    known = set(table["prompt_id"])
    for row in rows.iter_rows(named=True):
        assert row["example_ids"][0] == row["source_prompt_id"]
        assert len(set(row["example_ids"])) == 4
        assert set(row["example_ids"]) <= known
        assert [m["role"] for m in row["prompt"]] == ["user"]
    assert len({tuple(e) for e in rows["example_ids"].to_list()}) == 6


def test_later_rounds_see_what_was_written():
    table = prompts("seed one of all", "seed two of all")
    rows, _ = made(SelfInstruct(writer=WRITER, n=3, rounds=3, own_shots=1), table)
    assert rows.group_by("source_prompt_id", "round").len().height == 6
    texts = content(rows, "prompt")
    assert len(set(texts)) == rows.height


def test_what_is_left_out_has_a_reason():
    table = prompts("down", "mute", "bad", "echo", "a good seed to begin with")
    rows, dropped = made(SelfInstruct(writer=WRITER, n=4, shots=0), table)
    assert rows.height == 3
    assert reasons(dropped, table) == {
        "down": "http_503",
        "mute": "nothing_written",
        "bad": "too_short",
        "echo": "too_short",
    }
    _, dropped = made(SelfInstruct(writer=WRITER, n=4, shots=0, words=(1, 150)), table)
    assert reasons(dropped, table)["echo"] == "too_similar"
    step = SelfInstruct(writer=WRITER, n=4, shots=0, words=(1, 300), max_similarity=1)
    rows, _ = made(step, table)
    assert "draw me a picture of it" not in content(rows, "prompt")


def test_the_pool_is_a_bounded_sample_of_single_turns():
    table = prompts(*[f"seed {i}" for i in range(50)], "talk").with_columns(
        prompt=messages(*[[user(f"seed {i}")] for i in range(50)], [user("a"), assistant("b")])
    )
    from tests.helpers import asking

    step = SelfInstruct(writer=WRITER, pool=7)
    ctx = asking()
    whole = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx).tables["pool"]
    parts = [step.fit_shard(table[i : i + 10], ctx) for i in range(0, 51, 10)]
    cut = step.fit(parts[0].vstack(parts[1]).vstack(parts[2]).vstack(parts[3]).vstack(parts[4])
                   .vstack(parts[5]).sort("prompt_id"), ctx).tables["pool"]  # fmt: skip
    assert whole.height == 7
    assert whole.equals(cut)
    assert max(p["text"].drop_nulls().len() for p in parts) == 7
    _, dropped = made(step, table)
    assert dropped["reason"].to_list() == ["not_single_turn"]


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    table = prompts("down", "mute", "bad", *[f"seed number {i} of the pool" for i in range(7)])
    step = {"generators.SelfInstruct": {"writer": WRITER, "n": 2, "rounds": 2, "pool": 10}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


def test_fields_are_checked():
    with pytest.raises(ValidationError, match="fewest, then most"):
        SelfInstruct(writer=WRITER, words=(5, 2))
    step = SelfInstruct(writer=WRITER, n=3, rounds=2)
    assert [a.calls for a in step.asks(10, 10)] == [20]
    assert step.grows(10, 10) == (60, 60)
