"""What must hold of every step, of each that is exported (`prefactory.testing.check_step`)."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest
import yaml

import filters
import generators
import labelers
from catalog.publish import publish
from catalog.versions import Catalog
from pipelines.steps import describe
from prefactory import Shape
from prefactory.apply import accepts, columns_needed
from prefactory.errors import ConfigError
from prefactory.tables import COLUMNS as TABLES
from prefactory.testing import broken_invariants, example, responses
from prefactory.testing.invariants import INVARIANTS
from tests.helpers import one_file, recipe, run, tiny_llama

EXPORTED = sorted(
    f"{package.__name__}.{name}"
    for package in (filters, labelers, generators)
    for name in package.__all__
)


def answer(request):
    """A model that obeys now and then: the kind of answer is drawn by the text of the request."""
    last = request.conversation[-1]["content"]
    digest = hashlib.blake2b(f"{last}{request.sample}".encode("utf-8", "replace"), digest_size=1)
    kinds = (
        "A plain answer about eggs and the sky, with some words more.",
        "I looked at all.\n[[A]]",
        "[[tie]]",
        '{"score": 4, "reason": "fine", "prompt": "Why?", "answer": "So.", "tags": ["cooking"]}',
        "",
        "A \ud83d lone surrogate.",
        "1. First\n2. Second\n\nQuestion: What? Answer: That.",
        "Rating: 3\nRationale: good",
    )
    return kinds[digest.digest()[0] % len(kinds)]


def polite(prompt):
    return ~prompt.str.contains("weekend|haiku")


def questions(prompt, mark="!"):
    return prompt.str.count_matches(mark, literal=True)


def likely(conversation):
    """How likely a word is, by what stands before it."""
    said = conversation[-1]["content"].split()
    asked = str([m["content"] for m in conversation[:-1]])
    return [(w, -1.0 - (len(w) + len(asked)) % 7 / 7) for w in said]


SCRIPTED = {"engine": "scripted", "model": "any", "function": f"{__name__}.answer"}
LIKELY = {**SCRIPTED, "logprob_function": f"{__name__}.likely"}


def scripted(fields):
    """The fields of an example with every server replaced by a script."""
    if isinstance(fields, dict):
        if fields.get("engine") == "server":
            return {**SCRIPTED, "model": fields["model"]}
        return {key: scripted(value) for key, value in fields.items()}
    return [scripted(v) for v in fields] if isinstance(fields, list) else fields


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny language model, and the same with two heads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    folder = tmp_path_factory.mktemp("models")
    model, heads = str(tiny_llama(folder / "lm")), str(folder / "heads")
    set_seed(1)
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).save_pretrained(heads)
    AutoTokenizer.from_pretrained(model).save_pretrained(heads)
    cpu = {"precision": "fp32", "device": "cpu", "max_tokens": 64}
    return {"model": model, **cpu}, {"model": heads, **cpu}


MODELS = {
    "labelers.ImplicitReward": lambda model, heads: {"policy": model, "reference": model},
    "labelers.Likelihood": lambda model, heads: {"models": [model]},
    "labelers.RewardModel": lambda model, heads: {"model": heads, "objectives": ["one", "two"]},
    "labelers.TeacherTokens": lambda model, heads: {
        "teacher": model,
        "reference": model,
        "k": 3,
    },
    "labelers.StepScores": lambda model, heads: {"model": heads},
}


def steered(folder):
    import torch

    from prefactory.engines.steering.vector import Steering, save

    base = str(tiny_llama(folder / "steered"))
    save(Steering(torch.full((64,), 0.5), 0), folder, base)
    cpu = {"engine": "steered", "model": base, "precision": "fp32", "device": "cpu"}
    sampling = {"max_tokens": 4}
    return {"model": {**cpu, "vector": str(folder)}, "sampling": sampling}


def benchmark(folder):
    file = folder / "benchmark.jsonl"
    prompt = "Explain photosynthesis to a child of six in two sentences."
    file.write_text(json.dumps({"prompt": prompt}) + "\n")
    return {"against": [str(file)]}


def version(folder):
    old = recipe({"filters.Length": {}}, name="mine", version="2026.11.29")
    table = responses(("Write a haiku about rain in the old town.", "no"), ("Why?", "So."))
    publish(run(old, one_file(table), folder / "store"), Catalog(folder))
    return {}


def passages(folder):
    file = folder / "passages.jsonl"
    texts = ("A plain answer is about eggs and the sky.", "Eggs are not for 3 days.")
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"corpus": str(file)}


def ratings(folder):
    (name,) = votes(folder).values()
    told = {"task": "rate", "row_id": "none", "person": "Ada", "vote": "done", "counts": True,
            "purpose": "work", "role": "annotator", "informed": False,
            "answer": '{"ratings": {"truth": 4}}'}  # fmt: skip
    rows = pl.DataFrame([told], schema_overrides={c: TABLES[Shape.ANNOTATIONS][c] for c in told})
    pl.concat([pl.read_parquet(name), rows], how="diagonal").write_parquet(name)
    return {"file": name}


def votes(folder):
    file = folder / "annotations.parquet"
    annotations = pl.DataFrame(schema=TABLES[Shape.ANNOTATIONS])
    annotations.write_parquet(file)
    return {"file": str(file)}


STEERED = "generators.SteeredPairs"
FILES = {
    "generators.RetrieveAlignRefine": passages,
    STEERED: steered,
    "filters.AgainstVersions": version,
    "filters.Decontaminate": benchmark,
    "labelers.Annotations": votes,
    "labelers.HumanAnswers": ratings,
}
FIELDS = {
    "labelers.Constraints": {"constraints": [{"id": "detectable_format:title", "kwargs": {}}]},
    "labelers.Dimension": {"values": ["test"]},
    "filters.AgreementDraw": {"untaught": "random"},
    "filters.Rule": {"function": f"{__name__}.polite"},
    "labelers.Rule": {"function": f"{__name__}.questions", "options": {"mark": "?"}},
    "generators.Personas": {"people": 20},
    "labelers.DensityRatio": {"on_same": "one"},
    "labelers.Relevance": {"model": LIKELY},
    "generators.MismatchedPairs": {"model": LIKELY, "least": -1, "most": 1, "gap": 0},
    "labelers.PAL": {"steps": 20, "starts": 1, "folds": 2, "dim": 4},
}
DOCUMENTS = {
    "gold": pl.lit("So."),
    "documents": pl.lit(["It is so.", "Not at all.", "Who knows?"]),
    "gold_documents": pl.lit([0]),
}
COLUMNS = {
    "generators.RAGPairs": DOCUMENTS,
    "generators.TwoHopQuestions": {**DOCUMENTS, "gold": pl.lit("the")},
}
SKIPPED = {
    "generators.RAGPairs": {"needs": "`gold` may be a text or a list, which `needs` can't say"},
    "generators.TwoHopQuestions": {"needs": "as for RAGPairs"},
}
EXEMPT = {
    "labelers.PreferenceScore": "needs a folder that `PreferenceStack` trained; see its own tests",
    "labelers.Route": "needs a folder that `prefactory train router` made; see its own tests",
    "generators.ValueGuided": "decodes token by token with a model; its own tests cut its shards",
}


def step_of(name, more):
    package, _, attribute = name.partition(".")
    packages = {"filters": filters, "labelers": labelers, "generators": generators}
    cls = getattr(packages[package], attribute)
    item = next(i for i in yaml.safe_load(describe(cls).example) if name in i)
    return cls.model_validate(scripted(item[name]) | FIELDS.get(name, {}) | more)


def tables(name, step):
    """An example of each shape that goes with the fields of the step."""
    for shape in Shape:
        try:
            needed = columns_needed(step, shape)
        except ConfigError:
            continue
        if accepts(step, shape):
            yield example(shape, needed).with_columns(**COLUMNS.get(name, {}))


NAMES = [
    pytest.param(n, marks=pytest.mark.slow if n in {*MODELS, STEERED} else ())
    for n in EXPORTED
    if n not in EXEMPT
]
EDGES = set(INVARIANTS[INVARIANTS.index("one row") :])


@pytest.fixture
def checked(request, tmp_path, monkeypatch):
    """A step and its example tables, one for each shape that it takes, checked by name."""
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))

    def holds(name, which, left_out):
        more = {}
        if name in MODELS:
            more = MODELS[name](*request.getfixturevalue("llama"))
        elif name in FILES:
            more = FILES[name](tmp_path)
        step = step_of(name, more)
        found = list(tables(name, step))
        assert found
        broken = [
            text
            for number, table in enumerate(found)
            if number in which
            for text in broken_invariants(
                step, table, skip={*SKIPPED.get(name, ()), *left_out(number)}
            )
        ]
        assert not broken, "\n".join(broken)

    return holds


@pytest.mark.parametrize("name", NAMES)
def test_what_must_hold_of_every_step(name, checked):
    """Of the tables of all shapes; odd ones of the first shape alone."""
    checked(name, range(99), lambda number: EDGES if number else ())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_step_takes_odd_tables_of_its_other_shapes(name, checked):
    checked(name, range(1, 99), lambda _: set(INVARIANTS) - EDGES)
