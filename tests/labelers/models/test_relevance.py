"""Contrastive relevance: the softmax over prompts, its negatives, and what has no score."""

import math

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from labelers import Likelihood, Relevance
from prefactory.apply import apply_labeler, fit, fit_shard
from prefactory.engines.base import Failure
from prefactory.engines.transformers import Transformers
from prefactory.errors import PrefactoryError
from prefactory.measures.relevance import chance, other_prompts, relevance
from prefactory.preferences.trust import auc
from prefactory.tables import Shape
from prefactory.testing.applied import word_vectors
from tests.helpers import asking, digest, one_file, recipe, responses, run, tiny_llama, view

TOPICS = ("tea", "iron", "verse", "chess", "bread", "moon", "jazz", "silk")
TALKS = tuple((t, f"{t} is what we talk of here at length") for t in TOPICS)


def likely(conversation):
    """A token a word; words of the prompt are likely, and the answer `any ...` always the same."""
    words = conversation[-1]["content"].split()
    known = set(conversation[-2]["content"].split())
    hard = 3.0 if "hard" in words else 1.0
    return [(w, -0.1 if w in known else -hard) for w in words]


def table_of(*rows):
    return responses(*rows)


SCRIPT = {"engine": "scripted", "model": "m", "logprob_function": f"{__name__}.likely"}


def scored(table, **fields):
    step = Relevance(**{"model": SCRIPT, **fields})
    ctx = asking(embed=word_vectors, step="labelers.Relevance")
    state = fit(step, "r", fit_shard(step, "r", table, Shape.RESPONSES, ctx), ctx)
    ctx = asking(embed=word_vectors, step="labelers.Relevance", state=state)
    return apply_labeler(step, "r", table, Shape.RESPONSES, ctx)


def matrix(nll, **options):
    """Each answer against all other prompts, from the square of NLLs."""
    n = len(nll)
    others = nll[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return relevance(np.diag(nll).copy(), others, **options), chance(others)


def test_known_answers():
    same, by_chance = matrix(np.ones((4, 4)))
    assert same == pytest.approx([-1.386294] * 4, abs=1e-6) == by_chance
    nll = np.array([[1, 1.5, 1.5], [2.5, 2, 2.5], [3, 3, 3.0]])
    found, _ = matrix(nll)
    assert found == pytest.approx([-0.239545, -0.239545, -1.098612], abs=1e-6)
    moved, _ = matrix(nll + np.array([[0], [5], [-1]]))
    assert moved == pytest.approx(found, abs=1e-12), "an answer's own difficulty cancels"
    far, _ = matrix(np.array([[0.0, 1e6], [1e6, 0.0]]))
    assert list(far) == [0.0, 0.0]
    gone, fewer = matrix(np.array([[1, np.nan, 1], [1, np.nan, 1], [1, 1, 1.0]]))
    assert gone[0] == pytest.approx(-math.log(2)) == fewer[0], "an unknown negative has no part"
    assert np.isnan(gone[1])


def planted(n=400, seed=0):
    """Specification: difficulty sd .6, gain .4 of the right prompt, noise .12, 19 % off topic."""
    rng = np.random.default_rng(seed)
    off = rng.random(n) < 0.19
    topic = rng.integers(0, 20, n)
    about = np.where(off, rng.integers(0, 20, n), topic)
    gain = 0.4 * ((about[:, None] == topic[None, :]) * 0.5 + 0.5 * np.eye(n) * ~off[:, None])
    return 2 + rng.normal(0, 0.6, (n, 1)) - gain + rng.normal(0, 0.12, (n, n)), off


def test_off_topic_answers_are_found_where_their_likelihood_tells_little():
    nll, off = planted()
    found, _ = matrix(nll)
    raw = auc(-np.diag(nll), ~off)[0]
    over_prompts = auc(found, ~off)[0]
    over_answers = auc(matrix(nll.T)[0], ~off)[0]
    assert raw < 0.85
    assert over_answers < 0.85 < 0.95 < over_prompts
    rng = np.random.default_rng(1)
    some = other_prompts(np.eye(len(nll), dtype=bool), rng.random(len(nll)), 4)
    assert (some >= 0).all()
    assert not (some == np.arange(len(nll))[:, None]).any()
    four = relevance(np.diag(nll).copy(), np.take_along_axis(nll, some, axis=1))
    assert auc(four, ~off)[0] > 0.9


def test_an_answer_to_another_prompt_is_found_and_a_hard_one_is_not():
    table = table_of(*TALKS, ("tea", "iron is what we talk of here"), ("moon", "hard moon " * 4))
    out = scored(table, negatives=7).join(table, on="response_id")
    texts = out["response"].list.first().struct.field("content")
    off = out.filter(texts.str.starts_with("iron") & (pl.col("prompt_id") != IRON))
    hard = out.filter(texts.str.contains("hard"))
    right = out.filter(texts.str.contains("at length"))
    assert off["score_relevance"].item() < off["relevance_chance"].item()
    assert (right["score_relevance"] > right["relevance_chance"]).all()
    assert hard["score_relevance"].item() > -0.1
    assert set(out["relevance_negatives"]) == {7}
    assert set(out["relevance_chance"]) == {-math.log(8)}


IRON = table_of(("iron", "x"))["prompt_id"].item()


def test_what_has_no_score():
    table = table_of(("tea", ""), ("tea", "too few words"), ("iron", "five words are just enough"))
    out = scored(table).join(table, on="response_id")
    texts = out["response"].list.first().struct.field("content")
    reasons = dict(zip(texts, out["reason_relevance"], strict=True))
    assert reasons == {
        "": "empty",
        "too few words": "short",
        "five words are just enough": None,
    }
    assert out["score_relevance"].null_count() == out["relevance_negatives"].null_count() == 2
    alone = scored(table_of(("tea", "five words are just enough")))
    assert alone["reason_relevance"].to_list() == ["no_negatives"]
    copies = table_of(("tea", "five words are just enough"), ("Tea", "five words are just fine"))
    assert scored(copies)["reason_relevance"].to_list() == ["no_negatives"] * 2, "near copies"
    with pytest.raises(ValidationError, match="offers no log-probabilities"):
        Relevance(model={"engine": "scripted", "answers": []})


def test_a_prompt_that_the_model_can_not_read_is_no_negative(monkeypatch):
    from prefactory.engines.scripted import ScriptedEngine

    plain = ScriptedEngine.logprobs

    def long(self, conversations):
        found = plain(self, conversations)
        asked = [c[-2]["content"] for c in conversations]
        pairs = zip(asked, found, strict=True)
        return [Failure("too_long", "") if a == "iron" else f for a, f in pairs]

    monkeypatch.setattr(ScriptedEngine, "logprobs", long)
    table = table_of(*TALKS)
    out = scored(table, negatives=7).join(table, on="response_id")
    own = out["prompt_id"] == IRON
    assert out.filter(own)["reason_relevance"].to_list() == ["too_long"]
    assert set(out.filter(~own)["relevance_negatives"]) == {6}


def test_a_run_is_the_same_in_any_shards_and_plans_its_passes(tmp_path):
    table = table_of(*TALKS, *((t, f"another word on {t} and the rest") for t in TOPICS))
    step = {"labelers.Relevance": {"model": SCRIPT, "negatives": 2, "pool": 5}}
    results = [
        run(recipe(step), one_file(table), tmp_path / str(n), n, engine=asking().engine,
            embed=word_vectors)
        for n in (3, 1000)
    ]  # fmt: skip
    assert digest(results[0]) == digest(results[1])
    out = pl.concat([view(results[0], name) for name in results[0].views])
    assert out["score_relevance"].null_count() == 0
    passes = Relevance(model=SCRIPT, negatives=2).passes(100)
    assert [(p.model, p.rows) for p in passes] == [("m", 300)]


def test_a_language_model_scores_as_the_labeler_of_likelihoods(tmp_path):
    folder = str(tiny_llama(tmp_path / "m"))
    table = table_of(*TALKS[:3])
    model = {"engine": "transformers", "model": folder, "precision": "fp32", "device": "cpu"}
    out = scored(table, model=model, negatives=2, least_tokens=1)
    assert (out["score_relevance"] <= 0).all()
    assert out["reason_relevance"].null_count() == 3
    engine = Transformers(**model).open()
    both = Likelihood(models=[{"model": folder, "precision": "fp32", "device": "cpu"}])
    mean = both.label(table, asking())["score_log_probability"]
    for row, own in zip(table.to_dicts(), mean, strict=True):
        scored_ = engine.logprobs([row["prompt"] + row["response"]])[0]
        words = len(scored_.logprobs) - 1  # the labeler leaves the end of the turn out
        assert math.fsum(scored_.logprobs[:words]) / words == pytest.approx(own, abs=1e-4)
    marked = table_of(("look <image:" + "a" * 32 + ">", "five words are just enough"))
    with pytest.raises(PrefactoryError, match="pictures"):
        scored(marked)
