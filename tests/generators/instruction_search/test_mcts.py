"""Instruction search as a step: what it asks, what it writes, and what it leaves out."""

import json
import math
import random
from collections import Counter

import polars as pl
import pytest
from pydantic import ValidationError

from generators import InstructionSearch
from generators.instruction_search.tree import Tree
from prefactory.apply import apply_generator
from prefactory.engines.accounts import Budget
from prefactory.engines.session import Session
from prefactory.errors import ConfigError, StoppedError
from prefactory.recipe import find_step
from prefactory.tables import MESSAGES, Shape, with_prompt_id
from tests.generators import searching
from tests.generators.sampling import asked_run
from tests.generators.searching import HERE, alike, engine, fields
from tests.helpers import asking, content, digest, ledger_of, prompts, recipe, system, user, view

N = 6
TABLE = prompts(*[f"question {i}" for i in range(N)])


def searched(table=TABLE, ctx=None, **more):
    step = InstructionSearch(**fields(**more))
    return apply_generator(step, "search", table, Shape.PROMPTS, ctx or asking())


def trees(rows):
    return [json.loads(t) for t in rows["tree"].drop_nulls()]


def reasons(dropped):
    return Counter(dropped["reason"])


def marks(text):
    return {c for c in "abc" if f"[{c}]" in text}


# -- what comes out -----


def test_pairs_hold_the_best_and_the_worst_instruction():
    rows, dropped = searched()
    assert dropped.height == 0
    assert sorted(rows["parent_id"]) == sorted(TABLE["prompt_id"])
    texts = dict(zip(TABLE["prompt_id"], content(TABLE, "prompt"), strict=True))
    for row, chosen, rejected, prompt in zip(
        rows.iter_rows(named=True),
        *(content(rows, c) for c in ("chosen", "rejected", "prompt")),
        strict=True,
    ):
        raw = texts[row["parent_id"]]
        assert prompt.startswith("Rewrite the following instruction")
        assert f"<original>\n{raw}\n</original>" in prompt
        assert marks(chosen) == {"a", "b", "c"}
        assert chosen.startswith(f"<instruction>\n{raw} [")
        assert rejected == f"<instruction>\n{raw}\n</instruction>"
        assert (row["chosen_score_reward"], row["rejected_score_reward"]) == (4.0, 1.0)
        assert row["margin"] == row["search_gap"] == 3.0
        assert row["null_gap"] == 0.0  # the judge has no noise
        assert (row["chosen_model"], row["rejected_model"]) == ("append", None)
        assert row["label_source"] == "judge"
        assert (
            chosen
            == f"<instruction>\n{raw} "
            + " ".join(f"[{p}]" for p in row["principles"])
            + "\n</instruction>"
        )


def test_instructions_replace_the_raw_ones_and_keep_their_columns():
    table = TABLE.with_columns(topic=pl.lit("x"))
    rows, dropped = searched(table, output="instructions")
    assert dropped.height == 0
    assert rows.columns[:4] == ["prompt_id", "prompt", "source", "source_id"]
    assert set(rows["topic"]) == {"x"}
    assert all(marks(text) == {"a", "b", "c"} for text in content(rows, "prompt"))
    assert set(rows["reward"]) == {4.0}
    assert set(rows["raw_reward"]) == {1.0}
    assert not set(rows["prompt_id"]) & set(TABLE["prompt_id"])
    assert rows["prompt_id"].to_list() == with_prompt_id(rows)["prompt_id"].to_list()


def test_siblings_and_steps_are_pairs_of_their_parents_task():
    siblings, _ = searched(output="siblings")
    for row, chosen, rejected, prompt in zip(
        siblings.iter_rows(named=True),
        *(content(siblings, c) for c in ("chosen", "rejected", "prompt")),
        strict=True,
    ):
        origin = prompt.split("<original>\n")[1].split("\n</original>")[0]
        assert row["margin"] == len(marks(chosen)) - len(marks(rejected)) == 1
        assert all(t.startswith(f"<instruction>\n{origin} [") for t in (chosen, rejected))
    steps, _ = searched(output="steps")
    for row, chosen, rejected, prompt in zip(
        steps.iter_rows(named=True),
        *(content(steps, c) for c in ("chosen", "rejected", "prompt")),
        strict=True,
    ):
        (principle,) = row["principles"]
        origin = prompt.split("<original>\n")[1].split("\n</original>")[0]
        assert f"in one way only: write [{principle}]." in prompt
        assert rejected == f"<instruction>\n{origin}\n</instruction>"
        assert chosen == f"<instruction>\n{origin} [{principle}]\n</instruction>"
        assert row["margin"] == 1.0  # strictly better children only
    for made in (siblings, steps):  # a tree with many rows is written once
        assert len(trees(made)) == made["parent_id"].n_unique() == N
        assert made.height > N
        assert made["pair_id"].n_unique() == made.height


def test_trees_come_beside_unchanged_prompts():
    rows, dropped = searched(output="trees", judge="noise")
    assert rows.select(TABLE.columns).equals(TABLE.sort("prompt_id"))
    assert dropped.height == 0
    assert {len(t["nodes"]) for t in trees(rows)} == {21}
    assert [t["output"] for t in trees(rows)] == ["trees"] * N


def test_the_published_tree_can_go_on():
    rows, _ = searched(output="trees")
    found = trees(rows)[0]
    tree = Tree.load(found)  # with the state of its random stream
    assert tree.iterations == 20
    place = tree.propose().parent
    assert tree.unused(place)
    whole, _ = searched(output="trees", iterations=21)
    longer = trees(whole)[0]["nodes"]
    assert [n["text"] for n in longer[:21]] == [n["text"] for n in found["nodes"]]
    assert (longer[21]["parent"], longer[21]["action"]) == tuple(tree.propose())


def test_all_columns_are_as_promised():
    for output in ("pairs", "instructions", "siblings", "steps", "trees"):
        step = InstructionSearch(**fields(output=output))
        rows, _ = apply_generator(step, "s", TABLE, Shape.PROMPTS, asking())
        adds = step.adds(Shape.PROMPTS)
        assert {c: rows.schema[c] for c in adds} == adds
        empty, _ = apply_generator(step, "s", TABLE.clear(), Shape.PROMPTS, asking())
        assert dict(empty.schema) == dict(rows.schema)


def test_answers_are_kept_if_they_are_wanted():
    nodes = trees(searched(keep_responses=True)[0])[0]["nodes"]
    assert all(len(n["responses"]) == len(n["scores"]) == 3 for n in nodes)
    assert all(n["text"] in r for n in nodes for r in n["responses"])
    assert all(not n["responses"] for n in trees(searched()[0])[0]["nodes"])


# -- what is asked -----


def test_calls_are_those_of_the_plan(tmp_path):
    step = InstructionSearch(**fields(judge="noisy", ends=2))
    with Session(tmp_path) as engines:
        ctx = asking().__class__(engine=engines.engine)
        apply_generator(step, "search", TABLE, Shape.PROMPTS, ctx)
        used = {name: one["calls"] for name, one in engines.report().items()}
    # 20 rewrites, 21 instructions answered three times, two at either end again, the pair once more
    assert used == {"append": 20 * N, "echo": (21 + 4 + 2) * 3 * N, "noisy": (21 + 4 + 2) * 3 * N}
    planned = {a.engine.model: a.calls for a in step.asks(N, N)}
    assert planned == used


def test_answers_are_scored_against_the_raw_instruction_by_default():
    nodes = trees(searched(output="trees", judge="of_question")[0])[0]["nodes"]
    assert {n["mean"] for n in nodes} == {2.0}
    more = {"judge": "of_question", "score_against": "rewritten"}
    nodes = trees(searched(output="trees", **more)[0])[0]["nodes"]
    assert [n["mean"] for n in nodes] == [2.0] + [9.0] * 20


def test_what_stands_around_the_instruction_stays():
    table = TABLE[:1].with_columns(
        prompt=pl.Series(
            [[system("Be brief."), user("hi"), {"role": "assistant", "content": "ho"}, user("q")]],
            dtype=MESSAGES,
        )
    )
    table = with_prompt_id(table)
    rows, _ = searched(table, output="instructions")
    (prompt,) = rows["prompt"].to_list()
    assert prompt[:3] == table["prompt"].to_list()[0][:3]
    assert prompt[3]["content"].startswith("q [")
    (task,) = content(searched(table)[0], "prompt")
    assert "<conversation>\n[system]\nBe brief.\n\n[user]\nhi\n\n[assistant]\nho\n</" in task


def test_a_category_adds_its_principles():
    own = [*searching.PRINCIPLES, {"name": "m", "domain": "Math", "content": "write [m]."}]
    table = TABLE.with_columns(kind=pl.Series(["math", " MATH", "art", None, "", "math"]))
    rows, _ = searched(table, output="trees", principles=own, category="kind")
    actions = dict(zip(rows["kind"], (t["actions"] for t in trees(rows)), strict=True))
    assert actions["math"] == actions[" MATH"] == ["a", "b", "c", "m"]
    assert actions["art"] == actions[None] == actions[""] == ["a", "b", "c"]
    _, dropped = searched(table, principles=own, category="kind", shared=[])
    assert reasons(dropped) == {"no_principle": 3}


def test_the_shipped_principles_are_those_of_the_paper():
    found = InstructionSearch(**fields(principles="principles")).principles
    assert Counter(p.domain for p in found) == {
        "harmlessness": 2, "helpfulness": 3, "honesty": 1, "coding": 2, "math": 2
    }  # fmt: skip
    assert InstructionSearch(**{k: v for k, v in fields().items() if k != "principles"}).principles


# -- gaps -----

OUTPUTS = [
    "pairs",
    "siblings",
    *(pytest.param(output, marks=pytest.mark.slow) for output in ("instructions", "steps")),
]
"""One of each way to choose rows: of the whole tree, and of its branches."""


@pytest.mark.parametrize("output", OUTPUTS)
def test_trees_of_equals_write_no_more_than_the_level(output):
    table = prompts(*[f"q {i}" for i in range(50)])
    rows, dropped = searched(table, judge="noise", output=output, iterations=8)
    wrote = rows["parent_id"].n_unique()
    assert wrote + dropped.height == 50
    assert wrote <= 8  # 2.5 at level .05; 9 or more by luck once in 1,000
    assert set(reasons(dropped)) <= {"no_gap", "gap_not_confirmed"}


@pytest.mark.slow
def test_margins_of_what_equals_write_are_nought_on_average():
    table = prompts(*[f"q {i}" for i in range(60)])
    rows, _ = searched(table, judge="noise", level=0.9, iterations=8)
    assert rows.height > 45
    margin = rows["margin"]
    assert abs(margin.mean()) < 3 * margin.std() / math.sqrt(rows.height)
    assert (margin < 0).any()
    assert (rows["p_value"] <= 0.9).all()
    assert rows["p_value"].max() > 0.5
    loose, _ = searched(table, judge="noise", level=None, ends=0, iterations=8)
    assert loose.height == 60  # as published: every tree writes a pair, and flatters it
    assert loose["margin"].min() > 0
    assert loose["p_value"].null_count() == 60


def test_a_true_gap_is_written_and_its_margin_is_the_true_one():
    table = prompts(*[f"q {i}" for i in range(20)])
    rows, _ = searched(table, judge="noisy")  # 3 marks, noise 0.5
    assert rows.height == 20
    assert rows["margin"].mean() == pytest.approx(3.0, abs=0.25)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "about", [{"responder": "same"}, {"sampling": {"temperature": 0.0}}], ids=["equal", "greedy"]
)
def test_equal_samples_tell_nothing(output, about):
    about = {"iterations": 8, **about}
    rows, dropped = searched(output=output, **about)
    assert rows.height == 0
    assert reasons(dropped) == {"equal_samples": N}
    kept, lost = searched(output="trees", **about)
    assert (kept.height, lost.height) == (N, 0)  # what grew can be looked at all the same
    loose, _ = searched(output=output, level=None, **about)
    assert loose.height >= N
    assert loose["p_value"].null_count() == (loose.height if "responder" in about else 0)


def test_greedy_searches_ask_nothing(tmp_path):
    step = InstructionSearch(**fields(sampling={"temperature": 0.0}))
    with Session(tmp_path) as engines:
        ctx = asking().__class__(engine=engines.engine)
        apply_generator(step, "search", TABLE, Shape.PROMPTS, ctx)
        assert used(engines) == 0


def test_equal_scores_of_unlike_answers_are_no_equal_samples():
    rows, dropped = searched()  # a judge without noise: every mark counts
    assert (rows.height, dropped.height) == (N, 0)
    assert set(rows["p_value"]) == {0.0}


def test_cut_and_refused_answers_are_no_answers():
    for responder, reason in (("cut_off", "truncated"), ("refusing", "refuses")):
        rows, dropped = searched(responder=responder)
        assert rows.height == 0
        assert reasons(dropped) == {reason: N}
    rows, _ = searched(responder="cut_off", gate={"truncated": "keep"})
    assert rows.height == N


def test_fresh_samples_must_confirm_the_gap():
    rows, dropped = searched(judge="noise_without")
    assert rows.height == 0
    assert reasons(dropped) == {"gap_not_confirmed": N}
    assert dropped["detail"][0] == "0 by fresh samples (3 in the search)"
    rows, dropped = searched(judge="noise_without", ends=0, level=None)
    assert rows["margin"].to_list() == [3.0] * N


def test_margin_and_scores_are_of_samples_that_chose_nothing():
    rows, _ = searched(judge="noisy")
    for row, tree in zip(rows.iter_rows(named=True), trees(rows), strict=True):
        chosen, rejected = (tree["nodes"][tree[side]] for side in ("chosen", "rejected"))
        kinds = [set(chosen[kind]) for kind in ("scores", "fresh", "unseen")]
        assert [len(kind) for kind in kinds] == [3, 3, 3]
        assert len(set.union(*kinds)) == 9
        assert row["chosen_score_reward"] == pytest.approx(sum(chosen["unseen"]) / 3)
        assert row["margin"] == row["chosen_score_reward"] - row["rejected_score_reward"]
        assert row["margin"] != row["search_gap"] > row["null_gap"] > 0
        assert sum(bool(n["fresh"]) for n in tree["nodes"]) == 4
        assert sum(bool(n["unseen"]) for n in tree["nodes"]) == 2
        assert rejected["mean"] < chosen["mean"]


def test_a_pair_that_cannot_be_measured_again_is_none():
    rows, dropped = searched(responder="never_unseen")
    assert rows.height == 0
    assert reasons(dropped) == {"no_fresh_scores": N}


def test_prompts_that_nothing_beats_leave_or_stay():
    flat = {"scorer": {"judge": engine("of_question")}, "output": "instructions"}
    rows, dropped = searched(**flat)
    assert rows.height == 0
    assert reasons(dropped) == {"no_gap": N}
    rows, dropped = searched(**flat, unimproved="keep")
    assert dropped.height == 0
    assert rows.select(TABLE.columns).equals(TABLE.sort("prompt_id"))
    assert rows["reward"].to_list() == rows["raw_reward"].to_list() == [2.0] * N


# -- what goes wrong -----


def test_an_answer_without_tags_is_asked_for_again():
    rows, dropped = searched(rewriter="untagged_first")
    assert dropped.height == 0
    assert trees(rows)[0]["failed"] == []
    _, dropped = searched(rewriter="untagged_first", tries=1, most_failed=2)
    assert reasons(dropped) == {"unparseable": N}


def test_a_principle_that_fails_is_barred_at_its_node_and_the_rest_goes_on():
    rows, dropped = searched(rewriter="never_a", output="trees")
    assert dropped.height == 0
    for tree in trees(rows):
        assert len(tree["nodes"]) == 21
        assert {n["action"] for n in tree["nodes"]} == {"root", "b", "c"}
        assert tree["failed"]
        assert all(f[:2] == ["a", "unparseable"] for f in tree["failed"])
        assert "asked 4 times; last answer: 'The answer is 42.'" in tree["failed"][0][2]
        barred = [n["barred"] for n in tree["nodes"]]
        assert sum(map(len, barred)) == len(tree["failed"])


@pytest.mark.parametrize(
    ("rewriter", "reason"),
    [
        ("unchanged", "unchanged"),
        ("endless", "too_long"),
        ("nothing", "empty_answer"),
        ("broken", "http_500"),
    ],
)
def test_a_tree_in_which_nothing_works_is_given_up(rewriter, reason):
    rows, dropped = searched(rewriter=rewriter)
    assert rows.height == 0
    assert reasons(dropped) == {reason: N}


def test_no_rewrite_comes_twice_in_a_tree():
    rows, dropped = searched(TABLE[:1], rewriter="always_same", most_failed=0)
    assert rows.height == 0
    assert reasons(dropped) == {"duplicate": 1}
    assert "That was written before" in dropped["detail"][0]


def test_the_floor_refuses_what_asks_for_something_else():
    table = prompts("question 1")
    ctx = asking(embed=alike)
    rows, _ = searched(table, ctx, rewriter="off_topic", floor=0.5, output="trees")
    (tree,) = trees(rows)
    assert {n["action"] for n in tree["nodes"]} == {"root", "b", "c"}
    assert {tuple(f[:2]) for f in tree["failed"]} == {("a", "drifted")}
    rows, _ = searched(table, ctx, rewriter="off_topic", floor=None, output="trees")
    assert {n["action"] for n in trees(rows)[0]["nodes"]} == {"root", "a", "b", "c"}
    with pytest.raises(ConfigError, match="needs an encoder"):
        searched(table, floor=0.5)


def test_an_answer_that_fails_is_drawn_again():
    rows, dropped = searched(responder="second_time")
    assert dropped.height == 0
    assert rows["margin"].to_list() == [3.0] * N


def test_an_instruction_without_all_its_answers_does_not_count():
    rows, dropped = searched(responder="third_sample_never")
    assert rows.height == 0
    assert reasons(dropped) == {"http_500": N}


def test_an_unparseable_judge_is_no_score():
    _, dropped = searched(scorer={"judge": engine("echo"), "attempts": 2})
    assert reasons(dropped) == {"unparseable": N}
    assert 'Reply with {"score"' in dropped["detail"][0]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('thinking {"x": 1} ... {"score": 7}', None),
        ('{"score": "7"}', "no number"),
        ('{"score": true}', "no number"),
        ('{"score": NaN}', "off the scale"),
        ('{"score": 11}', "off the scale"),
        ('{"rating": 7}', "no JSON object"),
        ("7", "no JSON object"),
        ('{"score": 7} or {"score": 8}', "several JSON objects"),
    ],
)
def test_reading_a_judge(said, problem):
    scorer = InstructionSearch(**fields()).scorer
    if problem is None:
        assert scorer.parse(said) == 7.0
    else:
        with pytest.raises(ValueError, match=problem):
            scorer.parse(said)


def test_prompts_without_an_instruction_are_in_the_ledger():
    table = with_prompt_id(
        prompts("", "   ", "fine", "x").with_columns(
            prompt=pl.Series(
                [[user("")], [user(" \n ")], [user("fine")], [system("only a system message")]],
                dtype=MESSAGES,
            )
        )
    )
    rows, dropped = searched(table)
    assert rows.height == 1
    assert reasons(dropped) == {"no_instruction": 3}


def test_odd_texts_and_sizes():
    texts = ["😀", "\u202eright to left", "<instruction>x</instruction>", "a" * 1_000_000]
    table = prompts(*texts)
    rows, dropped = searched(table, rewriter="odd_texts", iterations=3)
    assert dropped.height == 0
    assert rows.height == 4
    assert all("\ud800" not in t and "? \u0000" in t for t in content(rows, "chosen"))
    one, _ = searched(prompts("q"), iterations=1)
    assert (len(trees(one)[0]["nodes"]), one["margin"][0]) == (2, 1.0)


# -- scorers of ours -----


def labelled(**about):
    return {"scorer": {"step": {f"{HERE}.Marks": about}}}


def test_a_labeler_scores():
    rows, dropped = searched(**labelled())
    assert dropped.height == 0
    assert rows["margin"].to_list() == [3.0] * N
    assert set(rows["label_source"]) == {"reward_model"}
    rows, _ = searched(output="trees", **labelled(lost="a"))
    for tree in trees(rows):
        assert {n["action"] for n in tree["nodes"]} == {"root", "b", "c"}
        assert all(f[1:] == ["no_score", f"{HERE}.Marks: lost"] for f in tree["failed"])


def test_a_labeler_sees_the_columns_of_the_prompts():
    step = InstructionSearch(**fields(**labelled(column="key")))
    assert step.needs(Shape.PROMPTS) == {"key": pl.String()}
    rows, _ = searched(TABLE.with_columns(key=pl.lit("12345")), **labelled(column="key"))
    assert rows["margin"].to_list() == [15.0] * N


def test_scorers_that_come_with_prefactory():
    scorer = {"step": {"labelers.R3": {"objectives": ["length"]}}}
    rows, _ = searched(scorer=scorer, output="trees")
    found = trees(rows)[0]["nodes"]
    assert found[0]["mean"] < found[-1]["mean"]  # echoes grow with the instruction
    judge = {"judge": engine("rate"), "criteria": ["Say something."]}
    with pytest.raises(ConfigError, match="rate"):  # it reaches the judge inside the labeler
        searched(scorer={"step": {"labelers.Rubric": judge}, "objective": "rubric"})


def test_the_scorer_is_identity_and_opens_its_models():
    plain = InstructionSearch(**fields(**labelled()))
    assert plain.identity()["fields"]["scorer"]["step"]["step"] == f"{HERE}.Marks"
    other = InstructionSearch(**fields(**labelled(lost="b")))
    assert plain.fingerprint() != other.fingerprint()
    many = InstructionSearch(**fields(max_concurrency=1, **labelled()))
    assert plain.fingerprint() == many.fingerprint()
    judge = {"judge": engine("distinct"), "criteria": ["Say something."]}
    nested = InstructionSearch(
        **fields(scorer={"step": {"labelers.Rubric": judge}, "objective": "rubric"})
    )
    assert [m["model"] for m in nested.engines()] == ["append", "echo", "distinct"]
    assert [a.engine.model for a in nested.asks(2, 2)] == ["append", "echo", "distinct"]
    assert find_step("generators.InstructionSearch") is InstructionSearch


# -- the same whatever the company -----


def run(folder, table=TABLE, shard_rows=1000, workers=1, ctx=None, **more):
    step = {"generators.InstructionSearch": fields(judge="noisy", **more)}
    options = {} if ctx is None else {"engine": ctx}
    return asked_run(recipe(step, seed=5), table, folder, shard_rows, workers, **options)


@pytest.mark.parametrize("output", ["pairs", pytest.param("instructions", marks=pytest.mark.slow)])
def test_shards_order_and_concurrency_change_nothing(tmp_path, output):
    rows = list(range(N))
    random.Random(0).shuffle(rows)
    whole = run(tmp_path / "a", output=output)
    cut = run(tmp_path / "b", TABLE[rows], 1, 2, output=output)
    alone = run(tmp_path / "c", output=output, max_concurrency=1)
    assert digest(whole) == digest(cut) == digest(alone)
    name = "pairs" if output == "pairs" else "prompts"
    assert view(whole, name).equals(view(cut, name))
    assert view(whole, name).height + ledger_of(whole).height == N


def test_other_seeds_grow_other_trees():
    first, _ = searched(ctx=asking(seed=1))
    second, _ = searched(ctx=asking(seed=2))
    assert first["tree"].to_list() != second["tree"].to_list()


def used(session):
    return sum(one["calls"] for one in session.report().values())


def test_a_stopped_run_goes_on_from_the_journal_with_the_same_bytes(tmp_path):
    short = {
        "sampling": {"max_tokens": 20},
        "rewriter_sampling": {"max_tokens": 20},
        "iterations": 8,
    }
    with Session(tmp_path / "whole") as engines:
        whole = run(tmp_path / "a", ctx=engines.engine, **short)
        calls, total = used(engines), engines.accounts.total()
    made = 0
    quarter = (total.prompt_tokens + total.completion_tokens) // 4
    for _ in range(3):  # stopped in the middle of an iteration, more than once
        with Session(tmp_path / "cut", budget=Budget(tokens=quarter)) as engines:
            with pytest.raises(StoppedError):
                run(tmp_path / "b", ctx=engines.engine, **short)
            assert used(engines) > 0
            made += used(engines)
    with Session(tmp_path / "cut") as engines:
        resumed = run(tmp_path / "b", ctx=engines.engine, **short)
        assert made + used(engines) == calls  # no call was made twice
    with Session(tmp_path / "cut") as engines:  # another store, the same journal: nothing is asked
        again = run(tmp_path / "c", ctx=engines.engine, **short)
        assert used(engines) == 0
    assert digest(whole) == digest(resumed) == digest(again)
    assert view(whole, "pairs")["tree"].equals(view(again, "pairs")["tree"])


def test_another_output_of_the_same_search_asks_only_for_its_fresh_samples(tmp_path):
    with Session(tmp_path) as engines:
        run(tmp_path / "a", ctx=engines.engine, ends=0, level=None)
    with Session(tmp_path) as engines:
        run(tmp_path / "b", ctx=engines.engine, output="trees")
        assert used(engines) == 0


# -- wrong recipes -----


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scorer": {}}, "name one of judge and step"),
        ({"scorer": {"judge": engine("noise"), "step": "labelers.R3"}}, "name one of"),
        ({"scorer": {"step": "labelers.R33"}}, "did you mean"),
        ({"scorer": {"step": {"labelers.R3": {"objectivs": []}}}}, "unknown key 'objectivs'"),
        ({"scorer": {"step": "labelers.R3"}}, "name one of the scores of labelers.R3"),
        ({"scorer": {"step": "filters.Length"}}, "no labeler of answers"),
        ({"scorer": {"step": f"{HERE}.Two", "objective": "z"}}, r"\(x, y\)"),
        ({"scorer": {"step": f"{HERE}.Whole"}}, "scope 'dataset'"),
        ({"scorer": {"judge": engine("noise"), "scale": [5, 1]}}, "5 is not below 1"),
        ({"scorer": {"judge": engine("noise"), "objective": "x"}}, "objective is for step"),
        ({"samples": 1}, "one can't tell luck from merit"),
        ({"ends": 0}, "without fresh samples no level holds"),
        ({"level": 0.0}, "greater than 0"),
        ({"shared": ["maths"]}, "no principle is of maths"),
        ({"shared": []}, "no principle is left"),
        ({"principles": [searching.PRINCIPLES[0]] * 2}, "a is there twice"),
        ({"principles": []}, "at least 1"),
        ({"prompts": {"rewrite": "{{ instrution }}"}}, "did you mean"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(change, told):
    with pytest.raises((ValidationError, ConfigError), match=told):
        InstructionSearch(**fields(**change))


def test_a_context_without_models_is_refused():
    step = InstructionSearch(**fields())
    with pytest.raises(ConfigError, match="opens none"):
        apply_generator(step, "s", TABLE, Shape.PROMPTS, asking().__class__())


def test_texts_can_be_replaced():
    rows, _ = searched(
        prompts={"answer": "{{ instruction }}", "task": "Improve: {{ instruction }}"}
    )
    assert all(t.startswith("question ") for t in content(rows, "chosen"))
    assert all(t.startswith("Improve: question") for t in content(rows, "prompt"))
