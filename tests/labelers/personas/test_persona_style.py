import re
import zlib

import numpy as np
import polars as pl
import pytest

from generators import PersonaPairs
from labelers import PersonaStyle
from prefactory.apply import apply_generator, apply_labeler
from prefactory.context import Context
from prefactory.measures import judge_watch
from prefactory.tables import Shape
from prefactory.testing import responses
from tests.generators.sampling import asked_run, model
from tests.helpers import asking, digest, recipe

HERE = __name__
PERSONAS = ["ann", "bob", "cid", "dan", "eva", "fay", "gus", "hal"]
WORDS = [f"w{c}{d}" for c in "abcdefgh" for d in "klmnop"]


def said(persona, topic, seed, style=1.0):
    """25 words, of which a share are the persona's own, and the topic."""
    rng = np.random.default_rng(seed)
    own = [f"{persona}{k}" for k in range(3)]
    words = [str(rng.choice(own if rng.random() < 0.3 * style else WORDS)) for _ in range(25)]
    return " ".join([f"thing{topic}", *words]) + "."


def embed(encoder, texts):
    """Topic by the number in a text, style by the share of the personas' words, and noise."""
    out = np.zeros((len(texts), 40), np.float32)
    for i, text in enumerate(texts.to_list()):
        topic = re.search(r"thing(\d+)", text)
        out[i, int(topic[1]) % 8 if topic else 8] = 1
        for k, persona in enumerate(PERSONAS):
            out[i, 10 + k] = 3 * len(re.findall(rf"\b{persona}\d", text)) / 25
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        out[i, 20:] = 0.1 * rng.standard_normal(20)
    return out


def table(questions=30, personas=PERSONAS):
    """Each persona answers each question in its style and in nobody's."""
    rows, who = [], {}
    for k, persona in enumerate(personas):
        for n in range(questions):
            asked = f"{persona} asks: what of thing{n}?"
            for style in (1.0, 0.0):
                text = said(persona, n, 1000 * k + 2 * n + int(style), style)
                rows.append((asked, text))
                who[text] = persona
    made = responses(*rows)
    return made.with_columns(persona=pl.Series([who[t] for t in text_of(made["response"])]))


def text_of(column):
    return [m[0]["content"] for m in column.to_list()]


def in_style(texts):
    return [bool(re.search(r"\b(?:ann|bob|cid|dan|eva|fay|gus|hal)\d", t)) for t in texts]


def styled(rows, seed=0, **fields):
    step = PersonaStyle(persona_is="text", **fields)
    ctx = Context(seed=seed, step="labelers.PersonaStyle", embed=embed)
    state = step.fit(step.fit_shard(rows, ctx).sort("response_id"), ctx)
    ctx = Context(seed=seed, step=ctx.step, embed=embed, state=state)
    labels = apply_labeler(step, "style", rows, Shape.RESPONSES, ctx)
    return rows.join(labels, on="response_id", maintain_order="left"), state


def paired(rows, **fields):
    step = PersonaPairs(**fields)
    ctx = Context(step="generators.PersonaPairs")
    state = step.fit(step.fit_shard(rows, ctx).sort("chosen_id"), ctx)
    ctx = asking(0, ctx.step, state=state)
    return *apply_generator(step, "pairs", rows, Shape.RESPONSES, ctx), state


def test_answers_in_style_are_nearer():
    rows, state = styled(table())
    assert state.info["personas"] == 8
    assert state.info["auc_shuffled"] > 0.7
    own = pl.Series(in_style(text_of(rows["response"])))
    near, far = (rows.filter(mask)["style_distance"].mean() for mask in (own, ~own))
    assert near < far - 0.2
    anchors = rows.filter(pl.col("reason_style") == "anchor")
    asked = anchors.group_by("persona").agg(pl.col("prompt_id").n_unique())
    assert asked["prompt_id"].to_list() == [10] * 8
    minus = [None if d is None else -d for d in rows["style_distance"]]
    assert rows["score_style"].to_list() == pytest.approx(minus)
    delta = [rows.filter(mask)["style_delta"].mean() for mask in (own, ~own)]
    assert all(d > 0 for d in delta)


def test_pairs_in_style_are_chosen_and_the_control_holds():
    rows, _ = styled(table())
    pairs, dropped, state = paired(rows)
    assert state.info["passed"]
    assert state.info["pairs"] == pairs.height > 100
    chosen, rejected = in_style(text_of(pairs["chosen"])), in_style(text_of(pairs["rejected"]))
    assert np.mean([c and not r for c, r in zip(chosen, rejected, strict=True)]) > 0.95
    assert (pairs["margin"] >= 0.2).all()
    assert set(pairs["contrast"]) == {"persona"}
    assert not pairs["topic_checked"].any()
    assert set(dropped["reason"]) <= {"no_distance", "small_margin", "length_ratio"}
    ids = {*pairs["chosen_id"], *pairs["rejected_id"], *dropped["row_id"]}
    assert ids == set(rows["response_id"])


def equal(request):
    return '{"reason": "", "better": "tie"}'


def first(request):
    return '{"reason": "", "better": "A"}'


def styled_one(request):
    """Names the answer in style, wherever it stands."""
    text = request.conversation[0]["content"]
    answers = re.findall(r"answer [AB]\n(.*?)\n---", text, re.S)
    return '{"reason": "", "better": "%s"}' % ("A" if in_style(answers)[0] else "B")


@pytest.mark.parametrize(
    ("function", "checked"), [("equal", True), ("first", True), ("styled_one", False)]
)
def test_a_judge_compares_what_is_not_style(function, checked):
    rows, _ = styled(table(20))
    pairs, _, _ = paired(rows, judge=model("j", f"{HERE}.{function}"))
    assert set(pairs["topic_checked"]) == {checked}


@pytest.mark.parametrize("function", ["equal", "first", "styled_one"])
def test_a_judge_that_goes_by_the_place_is_told_of(function, tmp_path):
    judged = {"generators.PersonaPairs": {"judge": model("j", f"{HERE}.{function}")}}
    plan = recipe({"labelers.PersonaStyle": {"persona_is": "text"}}, judged)
    run = asked_run(plan, table(20), tmp_path, embed=embed)
    (watched,) = run.stages[-1].info["watch"]
    assert watched["answers"] == 2 * run.stages[-1].rows_out
    told = judge_watch.failed(run.stages)
    assert ["goes by the place" in one for one in told] == [True] * (function == "first")


def test_a_control_that_fails_writes_nothing():
    rows, _ = styled(table())
    third = rows.with_columns(style_third_distance="style_distance")  # a third one sees the same
    pairs, dropped, state = paired(third)
    assert not state.info["passed"]
    assert pairs.height == 0
    assert "control_failed" in set(dropped["reason"])
    assert "a third persona puts 1.000 of the pairs" in "".join(dropped["detail"].drop_nulls())


def test_personas_must_be_told_apart():
    few, _ = styled(table(personas=PERSONAS[:2]))
    assert set(few["reason_style"]) == {"few_personas"}
    none, _ = styled(table().with_columns(persona=pl.lit(None, pl.String)))
    assert set(none["reason_style"]) == {"no_persona"}
    short, _ = styled(table(4))
    assert set(short["reason_style"]) == {"few_anchors"}
    twins = table().with_columns(persona=pl.col("persona").replace({"hal": "ann"}))
    halves = pl.col("response_id") < "8"
    twins = twins.with_columns(
        persona=pl.when((pl.col("persona") == "ann") & halves)
        .then(pl.lit("zoe"))
        .otherwise("persona")
    )
    rows, _ = styled(twins, alike=0.3)
    assert "alike_personas" in set(
        rows.filter(pl.col("persona").is_in(["ann", "zoe"]))["reason_style"]
    )


def test_drift_is_seen():
    facts = {}
    rows = []
    for d in range(24):
        persona = PERSONAS[d % 8]
        for turn in range(8):
            style = 0.0 if d >= 16 and turn >= 4 else 1.0
            text = said(persona, 8 * d + turn, 8 * d + turn, style)
            rows.append((f"{persona}, what of thing{8 * d + turn} then?", text))
            facts[text] = (persona, f"d{d}", turn)
    made = responses(*rows)
    told = [facts[t] for t in text_of(made["response"])]
    made = made.with_columns(
        pl.DataFrame(told, schema=["persona", "dialogue", "turn"], orient="row")
    )
    rows, _ = styled(made, dialogue="dialogue", turn="turn", anchors=5)
    slopes = rows.group_by("dialogue").agg(
        pl.col("drift_slope", "drift_p").drop_nulls().first()
    ).drop_nulls()  # fmt: skip
    by = {d: (s, p) for d, s, p in slopes.iter_rows()}
    drifting = [by[f"d{d}"][0] for d in range(16, 24) if f"d{d}" in by]
    still = [by[f"d{d}"][0] for d in range(16) if f"d{d}" in by]
    assert len(drifting) >= 5
    assert min(drifting) > np.mean(still) + 0.05
    likely = {late: np.mean([p for d, (_, p) in by.items() if (int(d[1:]) >= 16) == late])
              for late in (True, False)}  # fmt: skip
    assert likely[True] < 0.15 < likely[False]


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    plan = recipe(
        {"labelers.PersonaStyle": {"persona_is": "text"}}, {"generators.PersonaPairs": {}}
    )
    rows = table(20)
    cuts = [(rows, 1000), (rows, 7), (rows[::-1], 20)]
    runs = [asked_run(plan, t, tmp_path / str(i), size, 2, embed=embed)
            for i, (t, size) in enumerate(cuts)]  # fmt: skip
    assert len({digest(r) for r in runs}) == 1


def test_columns_are_checked():
    step = PersonaStyle(dialogue="talk", turn="n")
    wanted = {"persona": pl.Int64(), "talk": pl.String(), "n": pl.Int64()}
    assert step.needs(Shape.RESPONSES) == wanted
    assert PersonaStyle(persona_is="text").needs(Shape.RESPONSES) == {"persona": pl.String()}
