"""What chat templates do to pairs, with templates like those of real models."""

from __future__ import annotations

import json

import pytest

from prefactory.chat_template import ChatTemplate, TemplateError, effect
from prefactory.errors import ConfigError
from prefactory.testing import assistant, pairs, system, user
from tests.helpers import TEMPLATE, tiny_llama

TURN = "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
SKIPS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    + TURN
    + "{% endif %}{% endfor %}"
    + OPEN
)
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    + TURN
    + "{% endfor %}"
    + OPEN
)
STRIPS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>"
    "{% endfor %}" + OPEN
)
THINKS = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}"
    + OPEN.replace("<|assistant|>", "<|assistant|><think>\n")
)
ENDLESS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}" + OPEN
CALLS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}"
    "{{ c['function']['arguments']['city'] }}{% endfor %}<|end|>{% endfor %}" + OPEN
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture
def of(tokenizer):
    """The template of a Jinja text."""

    def made(text):
        tokenizer.chat_template = text
        return ChatTemplate(tokenizer, "tiny")

    return made


PLAIN = pairs(("Why?", "So.", "Who knows?"), ("How?", "Thus.", "No."))
JANUS = pairs(
    *[
        ([system(said), user(f"go {i}")], *answers)
        for i in range(6)
        for said, answers in (
            ("Be brief.", (f"brief {i}", f"long {i}")),
            ("Be thorough.", (f"long {i}", f"brief {i}")),
        )
    ]
)
AIDE = pairs(*[([system("You are calm."), user(f"go {i}")], "yes", "no") for i in range(4)])


def test_a_template_that_keeps_everything_has_no_effect(of):
    shown = effect(of(TEMPLATE), [PLAIN, AIDE])
    assert (shown.n, shown.lost.height, shown.notes, shown.refusal) == (6, 0, (), None)
    assert effect(of(TEMPLATE), [JANUS]).refusal is None


def test_a_template_that_skips_system_messages_is_refused_and_may_be_kept(of):
    shown = effect(of(SKIPS), [AIDE, PLAIN])
    assert "leaves out system messages, which 4 of 6 pairs have" in shown.refusal
    kept = effect(of(SKIPS), [AIDE, PLAIN], "keep")
    assert kept.refusal is None
    assert kept.notes == ("the chat template leaves out the system messages of 4 pairs",)
    assert effect(of(SKIPS), [PLAIN]).refusal is None  # there is nothing to leave out


@pytest.mark.parametrize("ignored", ["refuse", "keep"])
def test_pairs_that_stand_beside_their_opposite_are_refused_whatever_is_said(of, ignored):
    refusal = effect(of(SKIPS), [JANUS], ignored).refusal
    assert "12 of 12 pairs then stand beside their own opposite" in refusal


def test_a_refused_role_is_one_sentence(of):
    shown = effect(of(REFUSES), [AIDE])
    assert (
        shown.refusal == "the chat template of tiny refuses every pair: System role not supported"
    )
    some = effect(of(REFUSES), [AIDE, PLAIN])
    assert some.refusal is None
    assert some.lines() == ["4 of 6 pairs left out: template_refuses (System role not supported)"]
    twice = pairs(([user("One."), user("Two.")], "yes", "no"))
    assert "Conversation roles must alternate" in effect(of(REFUSES), [twice]).refusal
    with pytest.raises(TemplateError, match=r"^System role not supported$"):
        of(REFUSES).text([system("x"), user("y")])


def test_sides_that_differ_in_their_thoughts_only_are_lost(of):
    thoughts = pairs(
        ("Why?", "<think>good</think>So.", "<think>bad</think>So."),
        ("How?", "<think>good</think>Thus.", "<think>bad</think>No."),
    )
    shown = effect(of(STRIPS), [thoughts])
    assert shown.lost.rows()[0][1:] == (
        "equal_rendered", "rendered, chosen and rejected are one text",
    )  # fmt: skip
    assert shown.lost.height == 1
    assert shown.notes == ("the chat template strips <think>...</think> from answers",)
    assert effect(of(TEMPLATE), [thoughts]).lost.height == 0
    assert "writes both sides of all alike" in effect(of(STRIPS), [thoughts.head(1)]).refusal


def test_no_end_of_turn_and_an_opened_thought_are_notes(of):
    assert "no end of turn" in effect(of(ENDLESS), [PLAIN]).notes[0]
    opened = effect(of(THINKS), [PLAIN])
    assert "generation prompt ends with '<think>\\n'" in opened.notes[0]
    assert "in 2 pairs a rendered answer does not continue" in opened.notes[1]


def test_special_tokens_in_answers_are_counted(of):
    odd = pairs(("Why?", "So.<|end|>", "No."), ("How?", "Thus.", "No."))
    assert "answers of 1 pairs hold special tokens" in effect(of(TEMPLATE), [odd]).notes[0]


def test_dropped_tool_calls_are_named_and_kept_ones_seen(of):
    call = {"name": "weather", "arguments": json.dumps({"city": "Lviv"}), "id": None}
    said = [user("Rain?"), {**assistant(""), "tool_calls": [call], "reasoning": None}]
    assert "weatherLviv" in of(CALLS).text(said)
    assert "weather" not in of(TEMPLATE).text(said)
    assert of(CALLS).habits.calls == "kept"
    assert of(TEMPLATE).habits.calls == "ignored"


def test_a_folder_without_a_template_or_none_is_said(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match=r"can't load the tokenizer of /no/where: there is no"):
        ChatTemplate.open("/no/where")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatTemplate.open(str(tmp_path / "bare"))
