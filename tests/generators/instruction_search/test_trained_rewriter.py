"""A rewriter that was trained on the search's steps, back in the search (SinglePO)."""

import re
from collections import Counter

import pytest

from catalog.publish import publish
from catalog.report.page import build
from catalog.report.rewriters import difference, of_version, rewriter_report, sentences
from catalog.report.trees import Kept, SearchTree, read_trees
from generators import InstructionSearch
from pipelines.settings import Settings
from prefactory.apply import apply_generator
from prefactory.engines.session import Session
from prefactory.errors import DataError
from prefactory.tables import Shape
from tests.generators.sampling import asked_run, model
from tests.generators.searching import fields
from tests.helpers import asking, content, digest, prompts, recipe, tiny_llama

HERE = __name__
STEP = "generators.InstructionSearch"
TABLE = prompts(*[f"question {i}" for i in range(6)])
ASKED = []


def learned(request):
    """What training on steps should teach: the principle's mark, in the form of the answers."""
    ASKED.append(request)
    (message,) = request.conversation
    found = re.search(
        r"only: write (\[\w+\])\..*<original>\n(.*)\n</original>", message["content"], re.S
    )
    return f"<instruction>\n{found[2]} {found[1]}\n</instruction>"


def lazy(request):
    """A rewriter whose words change nothing that the judge sees."""
    found = re.search(r"<original>\n(.*)\n</original>", request.conversation[0]["content"], re.S)
    return f"<instruction>\n{found[1]} {request.draw_seed}\n</instruction>"


def mute(request):
    ASKED.append(request)
    return "here you are"


def made(function, **more):
    own = {"rewriter": model(function, f"{HERE}.{function}"), "rewriter_prompt": "trained"}
    step = InstructionSearch(
        **{**fields(**more), **own, **{k: v for k, v in more.items() if k in own}}
    )
    return apply_generator(step, STEP, TABLE, Shape.PROMPTS, asking())


@pytest.fixture(autouse=True)
def _fresh():
    ASKED.clear()


def test_it_is_asked_word_for_word_as_it_was_trained():
    step = InstructionSearch(**fields(output="steps"))
    rows, _ = apply_generator(step, STEP, TABLE, Shape.PROMPTS, asking())
    trained_on = set(content(rows, "prompt"))
    again, dropped = made("learned", output="steps")
    assert dropped.height == 0
    assert {len(r.conversation) for r in ASKED} == {1}
    first = [r.conversation[0]["content"] for r in ASKED if "[" not in r.conversation[0]["content"]
             .split("<original>")[1]]  # fmt: skip
    assert set(first) <= trained_on  # the raw instructions with each principle
    assert len(set(first)) == 6 * 3
    # a rewriter that learned it does as the one that was told: the same trees, pair by pair
    assert sorted(content(again, "chosen")) == sorted(content(rows, "chosen"))
    assert set(again["chosen_model"]) == {"learned"}


def test_what_cannot_be_used_is_drawn_again_and_not_corrected():
    _, dropped = made("mute", iterations=2, most_failed=0)
    assert Counter(dropped["reason"]) == {"unparseable": 6}
    per_place = Counter(r.row_id.rsplit("/", 1)[0] for r in ASKED)
    assert set(per_place.values()) == {4}  # `tries`
    assert {len(r.conversation) for r in ASKED} == {1}
    ASKED.clear()
    made("mute", iterations=2, most_failed=0, rewriter_sampling={"temperature": 0})
    assert len(ASKED) == 6  # greedy: it would say the same again


def published(folder, name, function):
    home = Settings(home=folder / "home")
    step = {**fields(output="trees"), "rewriter": model(function, f"{HERE}.{function}"),
            "rewriter_prompt": "trained", "longest": (9.0, 900)}  # fmt: skip
    with Session(folder / f"journal-{name}") as engines:
        told = {"failed_judges": True}  # all that is lazy is rated the same, by right
        found = asked_run(recipe({STEP: step}, name=name, version="1", publish=told), TABLE,
                          folder / name, engine=engines.engine)  # fmt: skip
    return publish(found, home.catalog, report=build).version


def test_win_rates_of_two_rewriters(tmp_path):
    good, poor = (published(tmp_path, f, f) for f in ("learned", "lazy"))
    one, two = of_version(good), of_version(poor)
    assert (one["trees"], one["steps"], one["beats_raw"]["value"]) == (6, 120, 1.0)
    wins = sum(  # by hand: a step wins where its mark is new on the way
        len(set(re.findall(r"\[(\w)\]", n.text))) > len(set(re.findall(r"\[(\w)\]", above.text)))
        for kept in read_trees(good)
        for n in kept.tree.nodes[1:]
        for above in [kept.tree.nodes[n.parent]]
    )
    assert one["better"]["value"] == pytest.approx(wins / 120, abs=1e-6)
    assert (two["better"]["value"], two["beats_raw"]["value"]) == (0, 0)
    gain = difference(read_trees(good), read_trees(poor))
    assert gain["value"] == one["better"]["value"]
    assert (gain["n"], gain["low"] > 0) == (6, True)  # the same six prompts
    assert difference(read_trees(good), read_trees(good))["value"] == 0
    told = " ".join(sentences(one))
    assert "of the 120 rewrites of 6 trees score above" in told
    assert "of the 120 rewrites of 6 trees score above" in (good.path / "report.html").read_text()


def test_what_a_pair_cost_and_what_failed():
    tree = SearchTree.model_validate(
        {"nodes": [{"parent": None, "action": "root", "text": "a", "visits": 1, "mean": 2.0},
                   {"parent": 0, "action": "x", "text": "b", "visits": 1, "mean": 2.0}],
         "best": 0, "failed": [("y", "drifted", "...")]}
    )  # fmt: skip
    cost = {"calls": 300, "tokens": 6000, "usd": 0.5}
    report = rewriter_report([Kept("p", "s", tree)], cost, 20)
    assert report["per_pair"] == {"calls": 15, "tokens": 300, "usd": 0.025}
    assert report["failed"] == {"drifted": 1}
    assert report["better"]["value"] == 0  # strictly higher, as the paper counts
    assert "Each pair cost 15.00 calls and 300.0 tokens, 0.025 US dollars." in sentences(report)
    assert rewriter_report([Kept("p", "s", tree)], cost, 0)["per_pair"] is None


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    step = {**fields(output="pairs"), "rewriter": model("learned", f"{HERE}.learned"),
            "rewriter_prompt": "trained"}  # fmt: skip
    cuts = enumerate([(TABLE, 1000), (TABLE, 1), (TABLE[::-1], 4)])
    runs = [asked_run(recipe({STEP: step}), t, tmp_path / str(i), n) for i, (t, n) in cuts]
    assert len({digest(r) for r in runs}) == 1


@pytest.mark.slow
def test_a_model_that_our_trainer_made_is_the_rewriter(tmp_path):
    """DPO of a random Llama on the steps, then a search with it: garbage, accounted for."""
    from trainers import DPO, DatasetRef, train_transformer

    step = recipe({STEP: fields(output="steps")}, name="steps", version="1")
    found = asked_run(step, TABLE, tmp_path / "store")
    version = publish(found, Settings(home=tmp_path / "home").catalog).version
    start = tiny_llama(tmp_path / "llama")
    config = DPO(
        model=str(start),
        learning_rate=1e-3,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
    )
    report = train_transformer(config, DatasetRef.from_path(version.path), tmp_path / "rewriter")
    assert report.facts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    local = {"engine": "transformers", "precision": "fp32"}
    back = {**fields(output="pairs", iterations=2, most_failed=1), "rewriter_prompt": "trained",
            "rewriter": {**local, "model": str(report.folder)},
            "rewriter_sampling": {"max_tokens": 24, "temperature": 0}}  # fmt: skip
    with pytest.raises(DataError, match="it dropped 6 for unparseable"):
        asked_run(recipe({STEP: back}), TABLE, tmp_path / "again")
