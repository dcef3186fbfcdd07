"""Every maker with a model that does nothing else than refuse, stop short, repeat or leak."""

import json
import re

import numpy as np
import polars as pl
import pytest

import generators
from catalog.publish import publish
from catalog.versions import Catalog
from generators.value_guided.step import Guided
from prefactory.apply import apply_generator
from prefactory.engines.base import Completion
from prefactory.engines.scripted import Scripted
from prefactory.engines.steering.config import Steered
from prefactory.errors import DataError
from prefactory.tables import Shape
from prefactory.testing.applied import word_vectors
from tests.generators.making import made
from tests.generators.sampling import model
from tests.helpers import asking, prompts, responses
from tests.labelers.judging import ran

HERE = __name__
REFUSAL = "I'm sorry, but I can't help you with that request."
SIGN = "zyx"
"""Stands in texts that must not be published."""


def sound(request):
    """Eighteen words that no other question gets, with "you" in them."""
    n = request.draw_seed
    words = " ".join(f"w{chr(97 + n // 3**i % 26)}{n // 5**i % 89}" for i in range(17))
    return f"You {words}."


def refuse(request):
    return f"{REFUSAL} ({request.draw_seed})"


def cut(request):
    return f"{sound(request)} {SIGN} and then"


def echo(request):
    return request.conversation[-1]["content"] if request.conversation else " "


def mark(request):
    asked = "\n".join(m["content"] for m in request.conversation)
    found = re.search(r"^(?:<<<|>>>|---) .*?\b([0-9a-f]{8})\b", asked, re.M)
    return f"{sound(request)} {SIGN} {found.group(1)}" if found else refuse(request)


def run_on(request):
    return f"{sound(request)} " + f"You see the {SIGN} of it again. " * 20


def think(request):
    return f"<think>{SIGN} I have to think of {sound(request)}"


def about(request):
    return f"The request requires a {SIGN} {request.draw_seed} response in the requested format."


def nothing(request):
    return "  "


BAD = {"refuse": refuse, "cut": cut, "echo": echo, "mark": mark, "run_on": run_on,
       "think": think, "about": about, "nothing": nothing}  # fmt: skip


def filled(schema, text, n=0):
    """Something of a JSON schema with a text in all its texts."""
    if "enum" in schema:
        return schema["enum"][n % len(schema["enum"])]
    if schema["type"] == "boolean":
        return True
    if schema["type"] in ("integer", "number"):
        low, high = schema.get("minimum", 1), schema.get("maximum", 5)
        return low + n % (int(high - low) + 1)
    if schema["type"] == "array":
        return [filled(schema["items"], f"{text} {i}", n + i) for i in range(2)]
    if schema["type"] == "object":
        filling = {k: filled(v, text, n) for k, v in schema["properties"].items()}
        return {**filling, **({"same": False} if "same" in filling else {})}
    return text


def said(request, kind):
    text = BAD[kind](request) if kind != "sound" else sound(request)
    schema = request.sampling.json_schema
    tagged = any("<instruction>" in m["content"] for m in request.conversation)
    if schema is not None:
        text = json.dumps(filled(schema, text, request.draw_seed))
    elif tagged:
        text = f"<instruction>{text}</instruction>"
    if kind == "cut":
        text = text[:-12]
    return Completion(text, finish_reason="length" if kind == "cut" else "stop")


for name in [*BAD, "sound"]:
    globals()[f"says_{name}"] = lambda request, kind=name: said(request, kind)


def engine(kind):
    return model(kind, f"{HERE}.says_{kind}")


JUDGE = engine("sound")
"""Forms of what it is asked for; ratings by the draw."""


def steps(engine):
    """Each maker whose rows hold what a model wrote."""
    return {
        "AugmentPrompts": {"writer": engine, "make": "pairs", "answerer": engine, "judge": JUDGE},
        "Dialogues": {"scenario": "patient_doctor", "engine": engine, "judge": JUDGE, "cells": 2},
        "Dilemmas": {"writer": engine, "priority": ["power", "tradition", "openness"],
                     "judge": JUDGE},
        "DraftCritique": {"model": engine, "judge": JUDGE},
        "Evol": {"writer": engine, "judge": JUDGE, "answerer": engine},
        "InstructionSearch": {"rewriter": engine, "responder": engine, "scorer": {"judge": JUDGE},
                              "floor": None, "iterations": 4, "level": None},
        "Magpie": {"model": engine, "n": 2},
        "PersonaIF": {"model": engine, "judge": JUDGE},
        "PersonaPrompts": {"writer": engine, "kinds": ["maths", "constrained"]},
        "Personas": {"engine": engine, "people": 4},
        "RAGPairs": {"models": [engine], "n": 3, "judge": [JUDGE]},
        "RPS": {"model": engine, "target": {"helpful": 1.0, "brief": 0.5}},
        "Responses": {"models": [engine], "n": 2},
        "SelfInstruct": {"writer": engine, "rounds": 2, "pool": 5},
        "StylePairs": {"model": engine, "hidden": ["be brief", "be kind"], "judge": JUDGE},
        "SystemMessages": {"backend": "engine", "engine": engine, "messages": 1},
        "ValueGapPairs": {"writer": engine, "policy": "neutral", "words": [5, 500],
                          "judge": JUDGE},
        "WeakPairs": {"strong": engine, "weak": model("weak", f"{HERE}.says_sound")},
    }  # fmt: skip


NOT_HERE = {
    "AdversarialWrappers": "asks nobody",
    "ComposedImages": "in its own test file, with pictures",
    "MaskedContinuations": "continues sentences; on answers, below",
    "MessageCoverage": "asks nobody",
    "MismatchedPairs": "asks for likelihoods only",
    "NearMissImages": "asks nobody",
    "NearMisses": "asks nobody",
    "PersonaPairs": "asks a judge only",
    "RetrieveAlignRefine": "needs a corpus; below",
    "SteeredPairs": "steers a model in this process; below, with what that might say",
    "SystemPromptMix": "asks nobody",
    "ToolCallPairs": "asks nobody",
    "TwoHopQuestions": "in its own test file, with questions that name answers",
    "ValueGuided": "steers a transformers model; below, with what that might say",
    "WrongDocument": "an answer of its model counts only if it names a span",
}


def table(n=6):
    texts = [f"What does the builder of tower {i} think about bikes and boats?" for i in range(n)]
    lists = pl.List(pl.String)
    documents = pl.Series([["The tower is of 1871.", "Tea is drunk.", "Boats."]] * n, dtype=lists)
    return prompts(*texts).with_columns(
        facts=pl.Series([["Tower one is old.", "Tower two is new."]] * n, dtype=lists),
        documents=documents,
        docs=documents,
        gold=pl.lit("1871"),
        gold_documents=pl.Series([[0]] * n, dtype=pl.List(pl.Int64)),
    )


def test_every_maker_is_looked_at():
    makers = {n for n in dir(generators) if not n.startswith("_") and n[0].isupper()}
    assert makers == set(steps(JUDGE)) | set(NOT_HERE)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", steps(JUDGE))
def test_no_maker_publishes_what_is_no_answer(name, kind):
    step = getattr(generators, name)(**steps(engine(kind))[name])
    rows, dropped = made(step, table())
    assert rows.height == 0, str(rows.row(0))[:300]
    assert dropped.height == 6


SECOND = [("AugmentPrompts", "critic"), ("InstructionSearch", "responder"), ("WeakPairs", "weak")]
"""What a maker takes from a second model goes through the gate as well."""


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("name", "role"), SECOND)
def test_no_second_model_brings_in_what_is_no_answer(name, role, kind):
    fields = steps(engine("sound"))[name]
    others = {"strong": engine("sound")} if name == "WeakPairs" else {}
    step = getattr(generators, name)(**{**fields, **others, role: engine(kind)})
    rows, _ = made(step, table())
    said = json.dumps(rows.to_dicts(), default=str)
    assert SIGN not in said, said[:300]
    assert REFUSAL not in said, said[:300]


PUBLISHED = ["AugmentPrompts", "Dialogues", "DraftCritique", "InstructionSearch", "Magpie",
             "PersonaPrompts", "Personas", "RAGPairs", "RPS", "Responses", "SelfInstruct",
             "StylePairs", "WeakPairs"]  # fmt: skip
"""Makers that publish sound words whatever they say; others want what only their tests write."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sound_texts_and_refusals_with_the_switch_are_published(name):
    for kind, more in (("sound", {}), ("refuse", {"gate": {"refuses": "keep"}})):
        step = getattr(generators, name)(**steps(engine(kind))[name], **more)
        rows, _ = made(step, table())
        assert rows.height > 0
        assert (REFUSAL in json.dumps(rows.to_dicts(), default=str)) is (kind == "refuse")


def test_continued_answers_are_no_refusals_or_echoes():
    answers = responses(
        *[(f"Boats are old. Tea is new.\n\nWhy {i}?", f"They are {i}. So.") for i in range(4)]
    )
    for kind in sorted(set(BAD) - {"cut"}):  # a sentence may end at max_tokens
        step = generators.MaskedContinuations(model=engine(kind), flip=0, tries=2)
        rows, dropped = apply_generator(step, "s", answers, Shape.RESPONSES, asking(embed=apart))
        assert (rows.height, dropped.height) == (0, 4), kind


def apart(encoder, texts):
    """Vectors of texts, no two of which are alike."""
    return np.eye(64, dtype=np.float32)[: len(texts)]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("draft", [None, "draft"])
def test_claims_are_not_mended_by_what_is_no_answer(kind, draft, tmp_path):
    fact = "The tower of Ystad was built in 1710 by Anna Berg."
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "p", "text": fact}) + "\n")
    rows = prompts("When was the tower of Ystad built?")
    rows = rows.with_columns(draft=pl.lit(fact.replace("1710", "1999")))
    step = generators.RetrieveAlignRefine(
        model=engine(kind), corpus=str(tmp_path / "corpus.jsonl"), draft=draft
    )
    ctx = asking(embed=word_vectors)
    made_rows, dropped = apply_generator(step, "s", rows, Shape.PROMPTS, ctx)
    assert (made_rows.height, dropped.height) == (0, 1)


@pytest.mark.parametrize("kind", [*BAD, "sound"])
def test_a_steered_model_publishes_no_more(kind, monkeypatch):
    monkeypatch.setattr(Guided, "open", lambda self: Scripted(**engine(kind)).open())
    step = generators.ValueGuided(
        model={"engine": "transformers", "model": "m"}, reward={"function": f"{HERE}.zero"}
    )
    rows, dropped = made(step, table())
    assert (rows.height, dropped.height) == ((6, 0) if kind == "sound" else (0, 6))


@pytest.mark.parametrize("kind", [*BAD, "sound"])
@pytest.mark.parametrize("side", ["toward", "away"])
def test_neither_side_of_a_steered_pair_is_no_answer(kind, side, monkeypatch):
    def opened(config):
        asked = "toward" if config.strength > 0 else "away"
        words = engine(kind) if asked == side else model("m", f"{HERE}.says_more")
        return Scripted(**words).open()

    monkeypatch.setattr(Steered, "open", opened)
    monkeypatch.setattr(Steered, "identity", lambda self: {"strength": self.strength})
    step = generators.SteeredPairs(model={"engine": "steered", "model": "m", "vector": "v"})
    rows, dropped = made(step, table())
    assert (rows.height, dropped.height) == ((6, 0) if kind == "sound" else (0, 6))


def says_more(request):
    fine = said(request, "sound")
    return Completion(f"{fine.text} There is more to say.", finish_reason="stop")


def zero(conversation, texts):
    return [0.0] * len(texts)


def test_a_constant_judge_labels_nothing(tmp_path):
    table = responses(*[(f"prompt {i}", f"answer {i} {w}") for i in range(12) for w in "ab"])
    for function in ("always_a", "always_tie", "always_one"):
        judge = model("judge", f"{HERE}.{function}")
        rubric = {"labelers.Rubric": {"judge": judge, "attributes": [{"name": "helpful"}]}}
        steps = [rubric] if function == "always_one" else [{"labelers.Judge": {"judge": judge}}]
        with pytest.raises(DataError, match="the judge"):
            publish(ran(steps, table, tmp_path / function), Catalog(tmp_path / "home"))
    assert not Catalog(tmp_path / "home").root.exists()


def always_a(request):
    return "[[A]]"


def always_tie(request):
    return "[[tie]]"


def always_one(request):
    return '{"ratings": {"helpful": 1}}'
