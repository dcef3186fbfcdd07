"""What a language model says of answers as features of the stack, in a run as a user starts it."""

import numpy as np
import pytest

from labelers.models.causal import write_hidden_state_encoder
from labelers.models.language_models import Model
from labelers.models.likelihood import Likelihood
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.engines.vectors import shared_store
from tests.helpers import one_file, pairs, recipe, responses, run, tiny_llama, view

WORDS = ["certainly", "please", "whatever", "go", "away"]
OBJECTIVES = ("log_probability", "log_probability_alone")
ON_CPU = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("lm") / "m")


def drawn(n, seed=0):
    """Prompts with two answers of six words each: length says nothing."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(3 * n)]
    return [(f"{texts[3 * i]} {i}", *texts[3 * i + 1 : 3 * i + 3]) for i in range(n)]


def labelled(rows, gaps):
    """Pairs whose first answer is the chosen one where the gap is above 0."""
    return pairs(
        *((x, a, b) if gap > 0 else (x, b, a) for (x, a, b), gap in zip(rows, gaps, strict=True))
    )


def accuracy(table, store, *steps):
    embed = shared_store(store / "vectors").embed
    found = view(run(recipe(*steps), one_file(table), store, embed=embed), "pairs")
    assert found.height == table.height
    return (found["margin_stack"] > 0).mean()


def stack(**fields):
    return {"labelers.PreferenceStack": {"damage": "off", **fields}}


def test_likelihoods_are_columns_that_a_stack_learns_from(lm, tmp_path):
    rows = drawn(160)
    answers = responses(*((x, y) for x, a, b in rows for y in (a, b)))
    step = Likelihood(models=(Model(model=str(lm), **ON_CPU),), objectives=OBJECTIVES)
    told = step.label(answers, Context())
    liked = told["score_log_probability"].to_numpy()
    table = labelled(rows, liked[::2] - liked[1::2])
    likelihood = {
        "labelers.Likelihood": {
            "models": [{"model": str(lm), **ON_CPU}], "objectives": list(OBJECTIVES),
        }
    }  # fmt: skip
    plain = stack(vectors=False)
    without = accuracy(table, tmp_path, plain)
    taught = accuracy(table, tmp_path, likelihood, stack(vectors=False, outside=list(OBJECTIVES)))
    assert taught > 0.85
    assert taught > without + 0.1


def test_hidden_states_are_vectors_that_a_stack_learns_from(lm, tmp_path):
    folder = write_hidden_state_encoder(lm, tmp_path / "hidden")
    rows = drawn(200, seed=1)
    with Encoder(model=str(folder), **ON_CPU).open() as encoder:
        a, b = (encoder.embed([row[side] for row in rows]) for side in (1, 2))
    direction = np.linalg.svd(a - b, full_matrices=False)[2][0]
    table = labelled(rows, (a - b) @ direction)
    hidden = stack(encoder={"model": str(folder), **ON_CPU}, form="joint")
    assert accuracy(table, tmp_path / "store", hidden) > 0.75
