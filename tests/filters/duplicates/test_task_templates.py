import polars as pl
import pytest

from filters import TaskTemplates
from prefactory.context import Context
from prefactory.errors import DataError
from tests.helpers import ledger_of, one_file, prompts, recipe, responses, run, view

TEMPLATES = (
    "Write a short rhyming poem for children about {} with a happy ending",
    "Explain step by step to a beginner how {} works and give one example",
    "What are the three most common mistakes that people make with {} at home?",
    "Please summarise the history of {} in five sentences for a school newspaper",
)
TOPICS = [
    f"{a} {b}"
    for a in ("the old", "a", "my green", "their", "one very small")
    for b in (
        "dog",
        "boat",
        "clock",
        "house",
        "garden",
        "violin",
        "engine",
        "market",
        "castle",
        "bay",
    )
]


def fitted(step, table, seed=0):
    parts = step.fit_shard(table, Context()).sort("unit")
    return step.fit(parts, Context(seed=seed))


def judged(step, table, seed=0):
    answer = step.keep(table, Context(state=fitted(step, table, seed)))
    assert answer.schema == {"reason": pl.String, "detail": pl.String}
    return answer


def test_four_templates_of_fifty_topics_are_four_groups():
    table = prompts(*[t.format(topic) for topic in TOPICS for t in TEMPLATES])
    facts = fitted(TaskTemplates(most=50), table).info
    assert facts == {"prompts": 200, "templates": 4, "largest": 50, "template": 0}
    assert fitted(TaskTemplates(most=10), table).info["template"] == 160


def test_the_detail_names_the_prompt_that_stands_for_the_template():
    table = prompts(*[TEMPLATES[0].format(topic) for topic in TOPICS[:5]])
    answer = judged(TaskTemplates(most=2), table)
    gone = answer.drop_nulls()
    first = table["prompt_id"].min()
    assert gone["reason"].to_list() == ["template"] * 3
    assert gone["detail"].to_list() == [f"one of 5 like {first}"] * 3


def test_the_best_prompts_stay():
    rows = [(TEMPLATES[1].format(topic), "answer") for topic in TOPICS[:6]]
    table = responses(*rows, score_help=[1.0, 5.0, None, 4.0, 2.0, 3.0])
    answer = judged(TaskTemplates(most=2, keep_best="help"), table)
    assert answer["reason"].is_null().to_list() == [False, True, False, True, False, False]


def test_chance_decides_without_scores_and_depends_on_the_seed():
    table = prompts(*[TEMPLATES[0].format(topic) for topic in TOPICS])
    stays = [
        tuple(judged(TaskTemplates(most=10), table, seed)["reason"].is_null()) for seed in (0, 0, 1)
    ]
    assert stays[0] == stays[1] != stays[2]
    assert [sum(s) for s in stays] == [10] * 3


def test_short_prompts_and_other_lengths_share_no_template():
    short = prompts("Write a poem about dogs", "Write a poem about cats")
    assert fitted(TaskTemplates(), short).info["templates"] == 0
    asked = TEMPLATES[0].format("dogs")
    inside = " ".join(f"{w} x{i} y{i}" for i, w in enumerate(asked.split()))
    lengths = prompts(asked, inside)
    assert fitted(TaskTemplates(share=0.5), lengths).info["templates"] == 0
    assert fitted(TaskTemplates(share=0.5, length_ratio=9), lengths).info["templates"] == 0
    # the pairs of neighbouring words differ, so the prompts are never compared; with some they are
    near = prompts(asked, asked + " " + " ".join(f"y{i}" for i in range(20)))
    assert fitted(TaskTemplates(), near).info["templates"] == 0
    assert fitted(TaskTemplates(length_ratio=9), near).info["templates"] == 1


def test_rows_of_a_prompt_stay_or_go_together(tmp_path):
    asked = [TEMPLATES[2].format(topic) for topic in TOPICS[:4]]
    table = responses(*[(p, f"answer {k}") for p in asked for k in range(3)])
    step = {"filters.TaskTemplates": {"most": 1}}
    found = []
    for i, rows in enumerate((1000, 2)):
        result = run(recipe(step), one_file(table), tmp_path / str(i), rows)
        found.append((view(result, "responses").rows(), ledger_of(result).rows()))
    assert found[0] == found[1]
    left = view(result, "responses")
    assert left.height == 3
    assert left["prompt_id"].n_unique() == 1


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(n):
    table = prompts(*["Write a poem"] * n)
    assert judged(TaskTemplates(), table)["reason"].null_count() == n


def test_empty_and_equal_prompts():
    table = responses(("", "a"), ("?", "b"), ("", "c"))
    assert judged(TaskTemplates(most=1), table)["reason"].null_count() == 3


def test_it_needs_its_state():
    with pytest.raises(DataError, match="has not been fitted"):
        TaskTemplates().keep(prompts("a"), Context())
