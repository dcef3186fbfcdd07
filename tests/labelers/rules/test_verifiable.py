"""Verifiable answers: what is read from a text, safe patterns and schemas, GSM8K's own labels."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from labelers.rules.verifiable import Verifiable, letters, numbers
from prefactory.context import Context
from prefactory.tables import Shape
from tests.helpers import responses

GSM8K = Path(__file__).parents[3] / "../shared/data/verifiable/gsm8k_model_solutions.jsonl.gz"


def score(answers, references=None, **fields):
    rows = responses(*[(f"q{i}", a) for i, a in enumerate(answers)])
    if references is not None:
        rows = rows.with_columns(pl.Series("ref", references, dtype=pl.String))
        fields["reference"] = "ref"
    step = Verifiable(**fields)
    out = step.label(rows, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out.to_series().to_list()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 2+2=4\n#### 1,234", 1234),
        ("It takes <<2/2=1>>1 bolt\nA: 3", 3),
        ("It is $-3.50.", -3.5),
        ("-$3", -3),
        ("\u22125 degrees", -5),
        ("1 1/2 cups", 1.5),
        ("½ of it", 0.5),
        ("2½", 2.5),
        ("The answer is 5 + 3 = 8 apples", 8),
        ("x = -\\frac{3}{4}", -0.75),
        ("between 10-3", 3),
        ("1e-5 m", 1e-5),
        ("**Answer:** 42.", 42),
        ("The answer is: \\boxed{7{,}000}.", 7000),
        ("costs $12. Twelve!", 12),
        ("5,000,000 people", 5e6),
        ("1'000 francs", 1000),
        ("12,34", 34),
        ("50%", 50),
        (".5", 0.5),
        ("A: no idea, but 7 comes close", 7),
        ("no number", None),
        ("2/0", None),
        ("", None),
        ("9" * 400, None),
        ("٣", None),
    ],
)
def test_numbers(text, number):
    assert numbers(pl.Series([text])).to_list() == [
        number if number is None else pytest.approx(number)
    ]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("b", "B"),
        ("C. because", "C"),
        ("**D**", "D"),
        ("A dog", None),
        ("Answer: **c**", "C"),
        ("I think so", None),
        ("B\nbecause", "B"),
        ("The answer is Apple", None),
        ("I first took (A), but it is (C)", "C"),
        ("E", None),
        ("\\boxed{D}", "D"),
        ("", None),
    ],
)
def test_letters(text, letter):
    assert letters(pl.Series([text]), "ABCD").to_list() == [letter]


def test_unreadable_answers_and_references():
    answers = ["#### 4", "#### 5", "none", "4", "none"]
    references = ["4", "4", "4", None, None]
    assert score(answers, references, kind="number") == [1, 0, 0, None, None]
    assert score(answers, references, kind="number", unparsed="null") == [1, 0, None, None, None]
    assert score(["3.3333", "1000001"], ["10/3", "1000000"], kind="number") == [0, 1]
    assert score(["3.3333"], ["10/3"], kind="number", tolerance=1e-4) == [1]


def test_exact_and_extract():
    assert score([" Paris \n", "PARIS", "Rome"], kind="exact", expected="paris") == [1, 1, 0]
    assert score(["paris", "Paris"], kind="exact", expected="Paris", fold=False) == [0, 1]
    found = score(
        ["<a>x</a> <a>y</a>", "y"], kind="exact", expected="y", extract="<a>(.*?)</a>",
        unparsed="null",
    )  # fmt: skip
    assert found == [1, None]


def test_patterns_run_in_linear_time_and_bad_ones_are_refused():
    assert score(["a" * 1_000_000 + "!"], kind="regex", expected="(a+)+$") == [0]
    assert score(["abc", "abd"], ["b(c", "b[cd]"], kind="regex") == [None, 1]
    for bad in ("(?=a)b", r"(a)\1", "(a{1000}){1000}", "(", "a" * 3000):
        with pytest.raises(ValueError, match="pattern"):
            Verifiable(kind="regex", expected=bad)
    with pytest.raises(ValueError, match="exactly one group"):
        Verifiable(kind="exact", expected="x", extract="abc")


SCHEMA = {
    "type": "object",
    "required": ["age"],
    "properties": {"age": {"type": "integer"}, "name": {"pattern": "^(a+)+$"}},
}


def test_json():
    answers = [
        '{"age": 3}',
        '```json\n{"age": 3}\n```',
        '{"age": "3"}',
        "{age: 3}",
        '{"age": NaN}',
        "[" * 100_000,
        '{"age": 1, "name": "' + "a" * 5000 + '!"}',
    ]
    assert score(answers, kind="json", json_schema=SCHEMA) == [1, 1, 0, 0, 0, 0, 0]
    assert score(answers, kind="json", unparsed="null") == [1, 1, 1, None, None, None, 1]
    schemas = [json.dumps(SCHEMA), '{"type": 7}', "nonsense", None]
    assert score([answers[0]] * 4, schemas, kind="json") == [1, None, None, None]
    remote = json.dumps({"$ref": "http://127.0.0.1:9/schema.json"})
    assert score(["1"], [remote], kind="json") == [None]
    for bad in ({"type": 7}, {"patternProperties": {}}, {"pattern": "("}):
        with pytest.raises(ValueError, match=r"JSON schema|patternProperties"):
            Verifiable(kind="json", json_schema=bad)


def test_choice():
    assert score(["(B)", "A", "?"], kind="choice", expected="b") == [1, 0, 0]


def test_configuration():
    for wrong in (
        {"kind": "number"},
        {"kind": "number", "expected": "x"},
        {"kind": "number", "expected": "1", "reference": "r"},
        {"kind": "exact", "json_schema": {}, "expected": "1"},
        {"kind": "choice", "expected": "Z"},
    ):
        with pytest.raises(ValueError, match=r"expected|json_schema|reference"):
            Verifiable(**wrong)
    step = Verifiable(kind="number", reference="answer")
    assert step.needs(Shape.RESPONSES) == {"answer": pl.String()}
    empty = responses(("q", "a")).with_columns(answer=pl.lit("1")).clear()
    assert step.label(empty, Context()).height == 0


@pytest.mark.skipif(not GSM8K.is_file(), reason=f"real data is not here: {GSM8K}")
def test_agrees_with_gsm8k_on_every_solution():
    rows = [json.loads(line) for line in gzip.decompress(GSM8K.read_bytes()).splitlines()]
    for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        answers = [r[model]["solution"] for r in rows]
        given = [float(r[model]["is_correct"]) for r in rows]
        assert score(answers, [r["ground_truth"] for r in rows], kind="number") == given
