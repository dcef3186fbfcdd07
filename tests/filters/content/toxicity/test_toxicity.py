import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from filters.content.toxicity.model import WINDOW, Classifier, _windows
from filters.content.toxicity.step import Toxicity
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from prefactory.testing import verdicts
from tests.helpers import ledger_of, one_file, pairs, prompts, recipe, responses, run

HERE = "tests.filters.content.toxicity.test_toxicity"


def shouting(texts):
    """Share of capitals; nothing is known of an empty text."""
    return [sum(c.isupper() for c in t) / len(t) if t else None for t in texts]


def too_few(texts):
    return [0.1]


def words(texts):
    return ["bad"] * len(texts)


# -- a function -----


def test_a_function_says_what_is_toxic():
    step = Toxicity(function=f"{HERE}.shouting", threshold=0.5)
    table = responses(("q", "AAAb"), ("q", "aAaB"), ("Q", "fine"), ("q", ""))
    assert verdicts(step, table) == [
        ("toxic", "response: 0.75 > 0.5"),
        (None, None),
        (None, None),
        (None, None),
    ]
    every = Toxicity(function=f"{HERE}.shouting", sides=("prompt", "response"))
    assert verdicts(every, table)[2] == ("toxic", "prompt: 1.0 > 0.5")


def test_rejected_answers_are_not_judged_unless_asked(tmp_path):
    table = pairs(("q", "a", "BAD"), ("r", "BAD", "a"), ("s", "a", "b"))
    step = {"filters.Toxicity": {"function": f"{HERE}.shouting"}}
    result = run(recipe(step), one_file(table), tmp_path)
    assert ledger_of(result)["detail"].to_list() == ["chosen: 1.0 > 0.5"]
    every = Toxicity(function=f"{HERE}.shouting", sides=("chosen", "rejected"))
    assert [d for _, d in verdicts(every, table)] == [
        "rejected: 1.0 > 0.5",
        "chosen: 1.0 > 0.5",
        None,
    ]
    only = Toxicity(function=f"{HERE}.shouting", sides=("prompt",))
    assert verdicts(only, prompts("HELLO", "hello"))[0] == ("toxic", "prompt: 1.0 > 0.5")
    assert verdicts(only, table.clear()) == []


def test_a_function_must_answer_with_numbers():
    table = responses(("q", "a"), ("q", "b"))
    with pytest.raises(DataError, match="gave 1 values for 2 texts"):
        Toxicity(function=f"{HERE}.too_few").keep(table, Context())
    with pytest.raises(DataError, match="gave 'bad', which is no number"):
        Toxicity(function=f"{HERE}.words").keep(table, Context())
    with pytest.raises(ConfigError, match=r"can't import 'nowhere\.f'"):
        Toxicity(function="nowhere.f").needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match=f"'{HERE}.HERE' is no function"):
        Toxicity(function=f"{HERE}.HERE").needs(Shape.RESPONSES)


def test_the_source_of_the_function_is_identity():
    step = Toxicity(function=f"{HERE}.shouting")
    assert len(step.identity()["function_source"]) == 32
    later = Toxicity(function=f"{HERE}.shouting", version_of_function=2)
    assert later.fingerprint() != step.fingerprint()


# -- a score -----


def test_a_score_that_is_there(tmp_path):
    table = pairs(
        ("q", "a", "b"), ("r", "c", "d"), ("s", "e", "f"),
        chosen_score_tox=[0.9, 0.1, None], rejected_score_tox=[0.1, 0.9, None],
    )  # fmt: skip
    step = Toxicity(score="tox")
    assert step.needs(Shape.PAIRS) == {"chosen_score_tox": pl.Float64()}
    assert verdicts(step, table) == [("toxic", "chosen: 0.9 > 0.5"), (None, None), (None, None)]
    one = responses(("q", "a"), ("q", "b"), score_tox=[float("nan"), 0.6])
    assert [r for r, _ in verdicts(step, one)] == [None, "toxic"]
    with pytest.raises(ConfigError, match="needs column 'chosen_score_tox'"):
        run(
            recipe({"filters.Toxicity": {"score": "tox"}}),
            one_file(pairs(("q", "a", "b"))),
            tmp_path,
        )
    with pytest.raises(
        ConfigError, match="sides: prompt; a table of responses has prompt, response"
    ):
        Toxicity(score="tox", sides=("prompt",)).needs(Shape.RESPONSES)


def test_one_source_of_values():
    with pytest.raises(ValidationError, match="give one of model, function and score; given: none"):
        Toxicity()
    with pytest.raises(ValidationError, match="given: function, score"):
        Toxicity(function="a.b", score="x")


# -- a classifier -----


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A BERT of random weights with two labels."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        set_seed,
    )

    folder = tmp_path_factory.mktemp("classifier")
    raw = BertWordPieceTokenizer()
    raw.train_from_iterator(["you are bad", "have a good day"] * 5, vocab_size=80)
    PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    set_seed(0)
    config = BertConfig(
        vocab_size=len(raw.get_vocab()), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
        id2label={0: "fine", 1: "Toxic"}, label2id={"fine": 0, "Toxic": 1}, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_windows_cover_the_text():
    text = "word " * 1000 + "x" * 3000
    rows = _windows(pl.Series([text, "", "  ", "a b"]))
    assert rows["row"].to_list().count(3) == 1
    assert set(rows["row"]) == {0, 3}
    assert rows["text"].str.len_chars().max() <= WINDOW
    joined = "".join(rows.filter(row=0)["text"]).replace(" ", "")
    assert joined == text.replace(" ", "")


def test_a_classifier_of_transformers(classifier):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = ["you are bad", "have a good day", "", "bad " * 10]
    model = Classifier(model=classifier, precision="fp32")
    found = model.probabilities(pl.Series(texts))
    net = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    for text, value in zip(texts, found, strict=True):
        if text:
            with torch.inference_mode():
                logits = net(**tokenizer(text, return_tensors="pt")).logits
            assert value == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-5)
        else:
            assert value == 0
    table = responses(*[("q", t) for t in texts])
    step = Toxicity(
        model={"model": classifier, "precision": "fp32"}, threshold=float(found[0]) - 1e-4
    )
    reasons = [r for r, _ in verdicts(step, table)]
    assert reasons[0] == "toxic"
    assert reasons == ["toxic" if v > step.threshold else None for v in found]


def test_a_text_is_as_bad_as_its_worst_window_in_any_company(classifier):
    model = Classifier(model=classifier, precision="fp32")
    texts = [f"{'have a good day ' * i} you are bad" for i in range(0, 120, 7)]
    whole = model.probabilities(pl.Series(texts))
    alone = [model.probabilities(pl.Series([t]))[0] for t in texts]
    assert np.array_equal(whole, alone)
    long = ("have a good day " * 200).strip()
    parts = _windows(pl.Series([long]))["text"]
    assert parts.len() > 2
    assert model.probabilities(pl.Series([long]))[0] == model.probabilities(parts).max()


def test_sigmoid_and_wrong_labels(classifier, tmp_path):
    soft = Classifier(model=classifier, precision="fp32").probabilities(pl.Series(["bad"]))
    hard = Classifier(model=classifier, precision="fp32", activation="sigmoid")
    assert hard.probabilities(pl.Series(["bad"]))[0] != soft[0]
    with pytest.raises(ConfigError, match="no label 'toxi'; did you mean 'Toxic'"):
        Classifier(model=classifier, label="toxi").probabilities(pl.Series(["a"]))
    with pytest.raises(ConfigError, match="there is no folder"):
        Classifier(model=str(tmp_path / "x")).identity()
    assert Classifier(model=classifier).identity()["label"] == "toxic"
    step = Toxicity(model={"model": classifier})
    assert step.engines()[0]["revision"] == step.model.identity()["revision"]
