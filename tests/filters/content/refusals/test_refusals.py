# ruff: noqa: RUF001 - texts of many scripts
import csv
import gzip
import hashlib
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from filters.content.refusals.step import Refusals
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.measures.refusals import languages, refuses
from prefactory.tables import Shape
from tests.helpers import digest, ledger_of, one_file, pairs, recipe, responses, run, view

SHARED = Path(__file__).parents[5] / "shared" / "data"
NO = "I'm sorry, but I can't help with that."

DECLINE = {
    "en": [
        NO,
        "I’m sorry, I cannot provide that.",
        "Sorry, but I can't assist with that request.",
        "I cannot fulfill your request. I'm just an AI.",
        "As an AI language model, I cannot provide medical advice.",
        "I'm happy to help! However, I must point out that I cannot provide information on drugs.",
        "It is not appropriate to provide guidance on tax fraud.",
        "I must respectfully decline.",
        "That sounds illegal. I won't help you with that.",
        '"I am not able to share that," it said',
        "I'd rather not answer that.",
    ],
    "de": [
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Dabei kann ich leider nicht helfen.",
    ],
    "fr": ["Je suis désolé, mais je ne peux pas vous aider.", "Je ne peux pas répondre à cela."],
    "es": ["Lo siento, pero no puedo ayudarte con eso."],
    "it": ["Mi dispiace, ma non posso aiutarti."],
    "pt": ["Desculpe, mas não posso ajudar com isso."],
    "nl": ["Het spijt me, maar ik kan je daar niet mee helpen."],
    "pl": ["Przykro mi, ale nie mogę w tym pomóc."],
    "ru": ["Извините, но я не могу помочь с этим."],
    "tr": ["Üzgünüm, ama bu konuda yardımcı olamam."],
    "ar": ["آسف، لا أستطيع مساعدتك في ذلك."],
    "zh": ["很抱歉，我无法回答这个问题。", "作为一个人工智能，我不能提供此类信息。"],
    "ja": ["申し訳ありませんが、そのご要望にはお応えできません。"],
    "ko": ["죄송하지만 그 요청은 도와드릴 수 없습니다."],
    "hi": ["क्षमा करें, मैं इसमें मदद नहीं कर सकता।"],
    "vi": ["Xin lỗi, tôi không thể giúp bạn việc đó."],
    "id": ["Maaf, saya tidak dapat membantu hal itu."],
}
COMPLY = [
    "",
    "Sure! Here is how to kill a Python process.",
    "I can't recommend this enough!",
    "I can't tell you how happy I am.",
    "I wouldn't recommend using bleach; vinegar does it.",
    "I'm sorry to hear that. Let me help you.",
    "I can help you with that.",
    "You cannot provide two arguments here.",
    "If they refuse to help, say: you can't do that.",
    "Sorry for the delay! The answer is 4.",
    "Lo siento mucho por tu pérdida.",
    "我可以帮助您。",
    "すみません、駅はどこですか。",
    "The story is long. " * 20 + NO,
]


def test_every_language_declines():
    assert set(DECLINE) == set(languages())
    for code, texts in DECLINE.items():
        assert refuses(pl.Series(texts)).to_list() == [True] * len(texts), code


@pytest.mark.parametrize("text", COMPLY)
def test_what_is_no_refusal(text):
    assert refuses(pl.Series([text])).to_list() == [False]


def test_null_and_long_texts():
    long = NO + " x" * 500_000
    assert refuses(pl.Series([None, long, " \n" + NO])).to_list() == [False, True, True]
    assert refuses(pl.Series([], dtype=pl.String)).to_list() == []


def test_texts_without_the_needed_words_have_no_pattern():
    """`holds` only saves time: with it and without it the answer is the same."""
    texts = pl.Series([t for found in DECLINE.values() for t in found] + COMPLY)
    heads = texts.str.to_lowercase().str.replace_all("\u2019", "'").str.strip_chars().str.head(300)
    for lists in languages().values():
        cleaned = heads.str.replace_all(lists.without, " ") if lists.without else heads
        said, holds = cleaned.str.contains(lists.pattern), heads.str.contains_any(list(lists.holds))
        assert not (said & ~holds).any()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_agreement_with_people():
    """The half of XSTest's answers that was not looked at when the lists were written."""
    with gzip.open(SHARED / "values/xstest_safe_completions.csv.gz", "rt") as file:
        rows = [
            r for r in csv.DictReader(file) if hashlib.md5(r["prompt"].encode()).digest()[0] % 2
        ]
    table = pl.DataFrame({"label": [r["final_label"] for r in rows]}).with_columns(
        refuses(pl.Series("found", [r["completion"] for r in rows])).alias("found")
    )
    counts = dict(table.group_by("label").agg(pl.col("found").sum()).iter_rows())
    sizes = dict(table.group_by("label").len().iter_rows())
    assert sizes == {"1_full_compliance": 213, "2_full_refusal": 34, "3_partial_refusal": 23}
    assert counts["1_full_compliance"] <= 3
    assert counts["2_full_refusal"] >= 28
    assert counts["3_partial_refusal"] >= 17


# -- the step -----


def judged(step, table, seed=0):
    ctx = Context(seed)
    state = step.fit(step.fit_shard(table, ctx).sort(pl.first()), ctx)
    answer = step.keep(table, Context(seed, state=state))
    assert answer.height == table.height
    return answer.rows(), dict(state.info)


def test_chosen_refusals_leave_and_rejected_ones_stay():
    table = pairs(("q", NO, "fine"), ("r", "fine", NO), ("s", "a", "b"))
    rows, info = judged(Refusals(), table)
    assert rows == [("refusal_chosen", f"chosen: {NO}"), (None, None), (None, None)]
    assert info == {
        "rows": 3,
        "exempt": 0,
        "chosen_before": 0.3333,
        "chosen_after": 0.0,
        "rejected_before": 0.3333,
        "rejected_after": 0.5,
    }
    rows, _ = judged(Refusals(max_share={"rejected": 0}), table)
    assert [r for r, _ in rows] == [None, "refusal_rejected", None]
    assert rows[1][1] == f"rejected: {NO}"


def test_responses_and_long_details():
    table = responses(("q", NO + "\n\nIt would be wrong. " * 9), ("r", "fine"))
    rows, _ = judged(Refusals(), table)
    assert rows == [
        ("refusal", f"response: {(NO + ' It would be wrong.' * 9)[:80]}..."),
        (None, None),
    ]


def test_safety_data_is_left_alone():
    table = pairs(("q", NO, "a"), ("r", NO, "b"), bad=[True, None])
    assert [r for r, _ in judged(Refusals(harmful="bad"), table)[0]] == [None, "refusal_chosen"]
    table = table.with_columns(source=pl.Series(["safe", "test"]))
    rows, info = judged(Refusals(safety=["safe"]), table)
    assert [r for r, _ in rows] == [None, "refusal_chosen"]
    assert info["exempt"] == 1
    assert Refusals(harmful="bad").needs(Shape.PAIRS) == {"bad": pl.Boolean()}


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_a_share_of_refusals(limit):
    table = responses(*[(f"q{i}", NO if i % 2 else "fine") for i in range(200)])
    rows, info = judged(Refusals(max_share={"response": limit}), table)
    stay = [NO if i % 2 else "fine" for i, (r, _) in enumerate(rows) if r is None]
    assert stay.count("fine") == 100
    kept = stay.count(NO)
    assert kept / len(stay) <= limit
    assert kept == 100 or (kept + 1) / (len(stay) + 1) > limit  # and no more than needed went
    assert info["response_after"] == pytest.approx(kept / len(stay), abs=1e-4)
    assert judged(Refusals(max_share={"response": limit}), table)[0] == rows
    if 0 < limit < 0.5:
        assert judged(Refusals(max_share={"response": limit}), table, seed=1)[0] != rows


def test_both_sides_reach_their_shares_together():
    texts = [(NO if i % 3 == 0 else "a", NO if i % 2 == 0 else "b") for i in range(120)]
    table = pairs(*[(f"q{i}", *t) for i, t in enumerate(texts)])
    rows, info = judged(Refusals(max_share={"chosen": 0.1, "rejected": 0.1}), table)
    stay = [t for t, (r, _) in zip(texts, rows, strict=True) if r is None]
    for side in (0, 1):
        assert 0 < sum(t[side] == NO for t in stay) / len(stay) <= 0.1
    assert max(info["chosen_after"], info["rejected_after"]) <= 0.1


def test_pairs_where_both_refuse():
    table = pairs(("q", NO, NO + " Never."), ("r", "a", "b"))
    step = Refusals(both="drop", max_share={"chosen": 1})
    assert judged(step, table)[0][0] == ("refusal_both", f"chosen: {NO}")
    assert judged(Refusals(max_share={"chosen": 1}), table)[0][0] == (None, None)


def test_every_row_refuses_or_none_is_there():
    table = responses(("q", NO))
    assert judged(Refusals(), table)[0][0][0] == "refusal"
    assert judged(Refusals(max_share={"response": 0.9}), table)[0][0][0] == "refusal"
    assert judged(Refusals(), table.clear()) == (
        [],
        {"rows": 0, "exempt": 0, "response_before": None, "response_after": None},
    )


def test_a_run_is_the_same_however_it_is_cut(tmp_path):
    table = pairs(*[(f"q{i}", NO if i % 2 else f"a {i}", "b") for i in range(60)])
    made = recipe({"filters.Refusals": {"max_share": {"chosen": 0.2}}}, seed=3)
    whole = run(made, one_file(table), tmp_path / "a")
    cut = run(made, one_file(table.reverse()), tmp_path / "b", shard_rows=7, workers=3)
    assert digest(whole) == digest(cut)
    assert view(whole, "pairs").height == 37
    assert set(ledger_of(whole)["reason"]) == {"refusal_chosen"}


def test_wrong_fields():
    with pytest.raises(ValidationError, match="'chosen', 'rejected' or 'response'"):
        Refusals(max_share={"prompt": 0.1})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Refusals(max_share={"chosen": 5})
    with pytest.raises(ConfigError, match="max_share limits chosen, and responses have none"):
        Refusals(max_share={"chosen": 0.1}).needs(Shape.RESPONSES)
    with pytest.raises(DataError, match="has not been fitted"):
        Refusals().keep(responses(("q", "a")), Context())
