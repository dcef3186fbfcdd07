"""Mismatched prompts: which answers are rejected where, and why others are not."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from generators import MismatchedPairs
from generators.hard_negatives.mismatched import assigned
from prefactory.apply import apply_generator, fit, fit_shard
from prefactory.tables import Shape
from tests.helpers import asking, content, digest, one_file, recipe, responses, run

ANGLES = {"tea": 0, "coffee": 40, "cocoa": 70, "iron": 180, "steel": 220, "zinc": 250}
NLL = {}
"""(prompt, answer) -> NLL of each of its tokens; 2 where nothing is planted."""


def embed(encoder, texts):
    """Prompts are points on a circle."""
    turns = np.radians([ANGLES[t] for t in texts])
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def likely(conversation):
    prompt, answer = (m["content"] for m in conversation[-2:])
    return [(word, -NLL.get((prompt, answer), 2.0)) for word in answer.split()]


SCRIPT = {"engine": "scripted", "model": "m", "logprob_function": f"{__name__}.likely"}
TABLE = responses(*[(w, f"about {w}") for w in ANGLES], score_h=[float(i) for i in range(6)])


@pytest.fixture(autouse=True)
def own_prompts_are_likeliest():
    NLL.clear()
    NLL.update({(w, f"about {w}"): 1.0 for w in ANGLES})


def made(table, **fields):
    step = MismatchedPairs(**{"model": SCRIPT, "least": 0.3, "most": 0.9, **fields})
    ctx = asking(embed=embed, step="generators.MismatchedPairs")
    state = fit(step, "g", fit_shard(step, "g", table, Shape.RESPONSES, ctx), ctx)
    ctx = asking(embed=embed, step="generators.MismatchedPairs", state=state)
    return *apply_generator(step, "g", table, Shape.RESPONSES, ctx), state


def rejected(rows):
    texts = content(rows, "rejected")
    return dict(zip(content(rows, "prompt"), [t.split()[-1] for t in texts], strict=True))


def test_the_answer_that_fits_best_beside_its_own_mean_is_rejected():
    NLL["tea", "about coffee"] = 1.5
    NLL["coffee", "about cocoa"] = 1.6
    rows, dropped, state = made(TABLE, uses=9)
    assert dropped.height == 0
    assert state.info == {"drawn": 6, "pairs": 6}
    found = rejected(rows)
    assert (found["tea"], found["coffee"]) == ("coffee", "cocoa")
    near = {"tea": "coffee", "coffee": "tea cocoa", "cocoa": "tea coffee", "iron": "steel zinc"}
    assert all(found[p] in names for p, names in near.items()), "only within the band"
    row = rows.filter(pl.col("mismatch_gap") == 0.5).row(0, named=True)
    assert row["similarity"] == pytest.approx(np.cos(np.radians(40)), abs=1e-6)
    ids = dict(zip(content(TABLE, "prompt"), TABLE["prompt_id"], strict=True))
    assert row["rejected_prompt_id"] == ids["coffee"]
    assert row["chosen_prompt_id"] == ids["tea"]
    assert set(rows["contrast"]) == {"mismatch"}
    assert set(rows["label_source"]) == {"rule"}
    assert rows["chosen_score_h"].null_count() == 0
    assert rows["rejected_score_h"].null_count() == rows.height


def test_a_generic_answer_is_not_taken_for_every_prompt():
    """It is likely after all prompts, so by the plain NLL it would be the hardest everywhere."""
    for prompt in ANGLES:
        NLL[prompt, "about coffee"] = 1.0 if prompt != "coffee" else 0.5
        NLL[prompt, "about tea"] = 2.0 if prompt != "tea" else 1.0
    NLL["cocoa", "about tea"] = 1.9
    rows, _, _ = made(TABLE, negatives=5, uses=9)
    assert rejected(rows)["cocoa"] == "tea"


def test_why_an_answer_has_no_pair():
    NLL["tea", "about tea"] = 3.0
    for other in ("coffee", "cocoa"):
        NLL["iron", f"about {other}"] = 2.0
    NLL["steel", "about zinc"] = 1.1
    NLL["steel", "about iron"] = 1.15
    table = pl.concat([TABLE.drop("score_h"), responses(("zinc", " "))]).sort("prompt_id")
    rows, dropped, _ = made(table)
    texts = dict(zip(table["response_id"], content(table, "response"), strict=True))
    reasons = {texts[i]: r for i, r, _ in dropped.select("row_id", "reason", "detail").rows()}
    assert reasons == {
        "about tea": "off_topic",
        "about steel": "fits_too_well",
        " ": "empty_answer",
    }
    assert "tea" not in rejected(rows).values(), "an answer off topic is no answer to anything"
    rows, dropped, _ = made(TABLE, least=0.99, most=1.0)
    assert set(dropped["reason"]) == {"off_topic", "no_similar_prompt"}
    assert rows.height == 0
    rows, dropped, _ = made(TABLE, sample=2)
    assert dropped["reason"].to_list().count("not_drawn") == 4
    rows, dropped, _ = made(responses(("tea", "about coffee"), ("coffee", "about coffee")))
    assert rows.height == 0, "the same text is no rejected answer"


def test_an_answer_is_used_so_often_and_no_more():
    best_first = np.array([0, 1, 2, 0, 1, 3]), np.array([9, 9, 9, 8, 8, 9]), np.array([1] * 6, bool)
    assert assigned(*best_first, 10, 1)[:4].tolist() == [9, 8, -1, -1]
    assert assigned(*best_first, 10, 3)[:4].tolist() == [9, 9, 9, -1]
    no_fit = np.array([0, 1, 1, 1, 1, 1], bool)
    assert assigned(*best_first[:2], no_fit, 10, 3)[:4].tolist() == [8, 9, 9, 9]
    rows, dropped, _ = made(TABLE, uses=1)
    assert len(set(rows["rejected_id"])) == rows.height
    assert set(dropped["reason"]) <= {"used_up"}


def test_hard_mismatches_are_many_answers_by_the_centred_nll_and_few_by_the_plain_one():
    """Portable methods, 5: difficulty sd .6, gain .4, noise .12."""
    rng = np.random.default_rng(0)
    n = 300
    topic = rng.integers(0, 20, n)
    alike = topic[:, None] == topic[None, :]
    nll = 2 + rng.normal(0, 0.6, n)[None, :] - 0.2 * alike - 0.2 * np.eye(n)
    nll = nll + rng.normal(0, 0.12, (n, n))  # [prompt, answer]
    rows, answers = np.nonzero(~np.eye(n, dtype=bool))

    def chosen(values):
        order = np.lexsort((answers, rows, values[rows, answers]))
        fits = np.ones(len(rows), bool)
        return assigned(rows[order], answers[order], fits, n, uses=n)

    plain, centred = chosen(nll), chosen(nll - nll.mean(axis=0))
    assert len(set(plain)) < 12 < 120 < len(set(centred))
    assert (topic[plain] == topic).mean() < 0.2 < 0.4 < (topic[centred] == topic).mean()


def test_a_run_is_the_same_in_any_shards_and_empty_tables_pass(tmp_path):
    step = {"generators.MismatchedPairs": {"model": SCRIPT}}
    given = {"engine": asking().engine, "embed": embed}
    runs = [run(recipe(step), one_file(TABLE), tmp_path / str(n), n, **given) for n in (2, 1000)]
    assert digest(runs[0]) == digest(runs[1])
    assert made(TABLE.clear())[0].height == 0
    (passes,) = MismatchedPairs(model=SCRIPT, sample=100).passes(5000)
    assert (passes.model, passes.rows) == ("m", 100 * 13)
    with pytest.raises(ValidationError, match="is above most"):
        MismatchedPairs(model=SCRIPT, least=0.9, most=0.3)
    with pytest.raises(ValidationError, match="offers no log-probabilities"):
        MismatchedPairs(model={"engine": "scripted", "answers": []})
