import numpy as np
import polars as pl
import pytest

from generators import WrongDocument
from generators.hard_negatives.wrong_document import composed, named, verdict
from prefactory.tables import Shape, check
from prefactory.testing import apply_step, check_step, prompts

YEARS = [1500 + 3 * i for i in range(40)]


def table(n=40, question="When was the town founded?"):
    texts = [f"{question}{' ' * i}" for i in range(n)]  # the same words, other prompts
    documents = [f"The town of T{i} was founded in {YEARS[i]} by a duke." for i in range(n)]
    return prompts(*texts, document=documents, gold=[str(y) for y in YEARS[:n]])


def test_each_prompt_asks_about_the_document_of_its_answer():
    made = apply_step(WrongDocument(shown=4), table()).rows
    check(made, Shape.PAIRS)
    assert made.height == 80
    for row in made.iter_rows(named=True):
        asked = row["prompt"][0]["content"]
        documents = asked.split("\n\n")[:4]
        spans = [d.split(" in ")[1].split()[0] for d in documents]
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert f"In document {row['target']}: When" in asked
        assert verdict(chosen, spans, row["target"] - 1) == "right"
        assert verdict(rejected, spans, row["target"] - 1) == "wrong"
        assert verdict(f"{chosen}, not {rejected}", spans, row["target"] - 1) == "unclear"
        assert verdict("Nobody knows.", spans, row["target"] - 1) == "unclear"
        assert len(set(spans)) == len(row["order"]) == 4
    assert set(made["contrast"]) == {"text"}
    assert set(made["annotator"]) == {"unknown"}
    assert set(made["label_source"]) == {"rule"}


def test_a_row_goes_in_twice_with_its_sides_exchanged():
    made = apply_step(WrongDocument(shown=3), table(12)).rows
    for _, two in made.group_by("source_prompt_id"):
        first, second = two.sort("target").iter_rows(named=True)
        assert first["chosen"] == second["rejected"]
        assert first["rejected"] == second["chosen"]
        assert first["target"] != second["target"]
        assert first["order"] == second["order"]
    assert apply_step(WrongDocument(shown=3, both_ways=False), table(12)).rows.height == 12


def test_places_are_drawn_evenly():
    made = apply_step(WrongDocument(shown=4, both_ways=False), table()).rows
    counts = np.bincount(made["target"].to_numpy() - 1, minlength=4)
    expected = counts.sum() / 4
    assert float(((counts - expected) ** 2 / expected).sum()) < 7.81


@pytest.mark.parametrize(
    ("text", "place"),
    [("187.", [0]), ("1871.", [1]), ("187 or 1871", [0, 1]), ("ROME!", [2]), ("Romeo", [])],
)
def test_spans_are_named_as_whole_words_without_case(text, place):
    assert named(text, ["187", "1871", "Rome"]) == place


def test_rows_without_documents_have_a_reason():
    rows = prompts(
        "A?", "B?", "C?", "D?",
        document=["Rome.", "", "Paris.", "Oslo."], gold=["Rome", "x", None, "Bergen"],
    )  # fmt: skip
    found = apply_step(WrongDocument(least=-1, most=1), rows).reasons
    assert sorted(found.values()) == [
        "no_document", "no_span", "span_not_in_document", "too_few_documents"
    ]  # fmt: skip


def test_documents_of_one_prompt_are_of_like_length_and_tell_no_other_answer():
    long = "x " * 200
    rows = prompts(
        "Where?", "Where? ", "Where?  ", "Where?   ",
        document=["In Rome.", "In Oslo.", f"In Bern {long}", "In Oslo, not in Rome."],
        gold=["Rome", "Oslo", "Bern", "Oslo"],
    )  # fmt: skip
    made = apply_step(WrongDocument(shown=2, both_ways=False), rows)
    shown = [row[0]["content"] for row in made.rows["prompt"].to_list()]
    assert all("Bern" not in text and "not in" not in text for text in shown)
    assert sorted(made.reasons.values()) == ["too_few_documents"] * 2


def knows(request):
    """Always right: reads the number of the document that is asked about."""
    text = request.conversation[-1]["content"]
    target = int(text.rsplit("In document ", 1)[1].split(":")[0])
    document = text.split("\n\n")[target - 1]
    return "It was founded in " + document.split(" in ")[1].split()[0] + "."


def confuses(request):
    text = request.conversation[-1]["content"]
    target = int(text.rsplit("In document ", 1)[1].split(":")[0])
    document = text.split("\n\n")[target % 4]
    return "It was founded in " + document.split(" in ")[1].split()[0] + "."


@pytest.mark.parametrize(("function", "chosen_is_a_models"), [(knows, True), (confuses, False)])
def test_a_models_answers_are_labelled_by_the_rule(function, chosen_is_a_models):
    script = {"engine": "scripted", "model": "m", "function": f"{__name__}.{function.__name__}"}
    made = apply_step(WrongDocument(shown=4, model=script, n=1), table(16)).rows
    assert made.height == 32
    assert set(made["rejected_model"]) == {"m"}
    assert (set(made["chosen_model"]) == {"m"}) == chosen_is_a_models
    for row in made.iter_rows(named=True):
        spans = [str(y) for y in YEARS if f" {y} " in row["prompt"][0]["content"]]
        assert len(named(row["chosen"][0]["content"], spans)) == 1
        assert row["chosen"] != row["rejected"]


def test_it_is_a_step():
    documents = [f"It is {i} o'clock in town {i}." for i in range(12)]
    table = prompts(*[f"Where{' ' * i}?" for i in range(12)], document=documents,
                    gold=[f"town {i}" for i in range(12)])  # fmt: skip
    check_step(WrongDocument(shown=2, least=-1, most=1), table)


def test_the_prompt_numbers_its_documents():
    asked = composed(["a", "b"], 2, "Why?")
    assert asked == "Document 1:\na\n\nDocument 2:\nb\n\nIn document 2: Why?"


def test_columns_have_their_types():
    made = apply_step(WrongDocument(shown=2), table(4)).rows
    assert made.schema["target"] == pl.Int64
    assert made.schema["order"] == pl.List(pl.String)


@pytest.mark.slow
def test_the_gate_runs_a_real_model(tmp_path):
    from generators.images.attention import AttentionGate
    from tests.helpers import tiny_llama

    gate = AttentionGate(model=str(tiny_llama(tmp_path / "llama")), device="cpu")
    documents = ["word " * 10, "word " * 30, "word " * 60]
    asked = composed(documents, 1, "Why?")
    ratios = [gate.ratio_of_texts(asked, documents, "Because.", i) for i in range(3)]
    assert sum(ratios) == pytest.approx(1)
    assert ratios == pytest.approx([1 / 3] * 3, abs=0.05)  # a random model looks evenly, per token
    made = apply_step(WrongDocument(shown=3, attention=gate), table(6))
    assert made.rows["attention_ratio"].null_count() == 0
    assert made.rows["attention_ratio"].max() <= 0.7
    strict = AttentionGate(model=gate.model, device="cpu", most={3: 0.0})
    assert set(apply_step(WrongDocument(shown=3, attention=strict), table(6)).reasons.values()) == {
        "attention"
    }
