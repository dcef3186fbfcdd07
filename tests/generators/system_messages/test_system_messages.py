"""System messages in front of prompts: rows, reasons, leaks, engines, whole runs."""

import json
import re

import polars as pl
import pytest

from catalog.values import load
from generators import MessageCoverage, SystemMessages
from generators.system_messages.engine import parse_message, parse_preferences, schema
from generators.system_messages.place import answer_text, judged, leaked
from prefactory.apply import apply_filter, apply_generator
from prefactory.context import Context
from prefactory.engines.base import Failure
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError, DataError
from prefactory.tables import MESSAGES, Shape, check, with_prompt_id
from tests.helpers import (
    MemorySource,
    asking,
    digest,
    ledger_of,
    messages,
    one_file,
    prompts,
    recipe,
    run,
    system,
    user,
    view,
)

STEP = "generators.SystemMessages"


def questions(n):
    return prompts(*[f"What about number {i}?" for i in range(n)])


def made(step, table, ctx=None):
    """Fit on a table and make its messages: rows, ledger, state."""
    ctx = ctx or asking()
    state = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx)
    ctx = Context(ctx.seed, ctx.step, state, ctx.embed, ctx.engine)
    rows, dropped = apply_generator(step, STEP, table, Shape.PROMPTS, ctx)
    return rows, dropped, state


def said(rows):
    return rows["prompt"].list.first().struct.field("content").to_list()


# -- rows -----


def test_three_messages_each_with_a_value_of_each_dimension():
    table = questions(20).with_columns(extra=pl.int_range(20))
    rows, dropped, _ = made(SystemMessages(), table)
    check(rows, Shape.PROMPTS)
    assert (rows.height, dropped.height) == (60, 0)
    assert rows["source_prompt_id"].value_counts()["count"].unique().to_list() == [3]
    assert rows["prompt"].list.first().struct.field("role").unique().to_list() == ["system"]
    assert rows["prompt"].list.len().unique().to_list() == [2]
    assert len(set(said(rows))) == 60
    assert rows.select("system_source", "value_system").unique().rows() == [("value", "janus")]
    known = table.select("prompt_id", question="prompt", x="extra")
    joined = rows.join(known, left_on="source_prompt_id", right_on="prompt_id")
    assert (joined["extra"] == joined["x"]).all()
    assert joined["prompt"].list.slice(1).to_list() == joined["question"].to_list()
    tree = load("janus")
    for ids, entries in rows.select("value_ids", "preference_set").iter_rows():
        assert [i.split(":")[1].split(".")[0] for i in ids] == list(tree.roots)
        assert [e["value_id"] for e in entries] == ids
        node = tree.by_id[ids[0].removeprefix("janus:")]
        assert entries[0]["preference"] == node.label
        assert entries[0]["description"] == node.definition
        assert entries[0]["dimension"] == "Style"


def test_a_message_says_what_its_values_say():
    rows, _, _ = made(SystemMessages(), questions(30))
    tree = load("janus")
    for text, ids in zip(said(rows), rows["value_ids"].to_list(), strict=True):
        plain = text.lower().replace("you are ", "you be ")
        for value in ids:
            phrases = tree.phrases(value.removeprefix("janus:"))
            assert any(p.lower().removeprefix("be ") in plain for p in phrases)


def test_what_was_covered_is_told():
    rows, _, state = made(SystemMessages(), questions(200))
    told = state.info["coverage"]
    assert told["dimension"]["entropy"] == 1
    assert {n["n"] for n in told["dimension"]["nodes"].values()} == {600}
    counts = rows["value_ids"].explode().value_counts()
    for value, n in counts.iter_rows():
        assert told["value"]["nodes"][value.removeprefix("janus:")]["n"] == n
    assert told["value"]["empty"] == 0
    assert counts["count"].max() - counts["count"].min() <= 3  # 600 / 22 and 600 / 20
    diversity = state.info["diversity"]
    assert diversity["distinct_texts"] == diversity["texts"] == 200
    assert 0 < diversity["rouge_l_of_one_prompt"] < 0.5
    json.dumps(state.info)


def test_prompts_that_take_no_message():
    table = prompts("plain", "You are a pirate. Say hello.")
    more = [[system("Be brief."), user("hi")], [{"role": "assistant", "content": "hm"}]]
    odd = table[:0].select("source", "source_id")
    odd = pl.DataFrame(
        {"prompt": messages(*more), "source": ["s"] * 2, "source_id": ["1", "2"]},
        schema={"prompt": MESSAGES, **odd.schema},
    )
    table = pl.concat([table, with_prompt_id(odd).select(table.columns)]).sort("prompt_id")
    rows, dropped, _ = made(SystemMessages(), table)
    assert rows.height == 3
    assert sorted(dropped["reason"]) == ["has_role", "has_system", "no_user_message"]
    rows, dropped, _ = made(SystemMessages(existing="replace", refuse_roles=False), table)
    assert rows.height == 9
    assert dropped["reason"].to_list() == ["no_user_message"]
    assert "Be brief." not in str(rows["prompt"].to_list())


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("You are an expert in law. Explain.", True),
        ("Act as a Linux terminal.", True),
        ("I want you to act as a poet.", True),
        ("From now on you are the captain.", True),
        ("Imagine you're a cat. Describe your day.", True),
        ("Your role is to check grammar: ...", True),
        ("You are wrong about this.", False),
        ("Are you a robot?", False),
        ("What did the Romans act as?", False),
        ("Please explain why actors act.", False),
        ("", False),
    ],
)
def test_roles_that_a_prompt_gives(text, role):
    found = judged(prompts(text), "drop", roles=True)["reason"][0]
    assert found == ("has_role" if role else None)
    assert judged(prompts(text), "drop", roles=False)["reason"][0] is None


def test_no_rows_and_unfitted():
    rows, dropped, state = made(SystemMessages(), questions(0))
    assert (rows.height, dropped.height) == (0, 0)
    assert state.info["messages"] == 0
    with pytest.raises(DataError, match="has not been fitted"):
        SystemMessages().generate(questions(1), Context())


# -- leaks -----


def leak(message, answer, prompt="", words=4):
    return leaked(*[pl.Series([t], dtype=pl.String) for t in (message, answer, prompt)], words)[0]


def test_what_gives_an_answer_away():
    answer = "The capital of France is Paris, on the Seine."
    assert leak("You know: the capital of France is big.", answer) == "capital of france is"
    assert leak("The capital OF france...", answer) == "the capital of france"
    assert leak("The capital of Spain is Madrid.", answer) is None
    assert (
        leak("The capital of France is big", answer, "What is the capital of France is it") is None
    )
    assert leak("Answer forty-two or 42.", "42") == "42"
    assert leak("Say yes to all.", "Yes") is None  # by chance
    assert leak("Mention Paris.", "Paris") == "paris"
    assert leak("Mention comparisons.", "Paris") is None  # whole words
    assert leak("Mention Paris.", "Paris", "Paris or Rome?") is None
    assert leak("new york is big", "New York") == "new york"
    assert leak("anything", None) is None
    assert leak("anything", "") is None


def test_answers_of_any_kind():
    table = questions(2).with_columns(
        reference=pl.Series([7, None]),
        response=messages([{"role": "assistant", "content": "eight"}], []),
        answer=pl.Series([["a", "b"], None]),
    )
    found = answer_text(table, ("reference", "response", "answer", "absent")).to_list()
    assert found == ["7\neight\na\nb", ""]
    assert answer_text(table, ("absent",)).to_list() == [None, None]
    with pytest.raises(DataError, match=r"column 'prompt_id' is .*an answer is text"):
        answer_text(table.with_columns(prompt_id=pl.struct(x=1)), ("prompt_id",))


def test_a_message_with_the_answer_takes_the_prompt_out():
    table = questions(2)
    rows, _, _ = made(SystemMessages(), table)
    mine = rows.filter(pl.col("source_prompt_id") == table["prompt_id"][0])
    giveaway = " ".join(said(mine)[1].split()[-8:])
    answers = [f"So: {giveaway}", "Something else altogether, which nobody said before."]
    rows, dropped, _ = made(SystemMessages(), table.with_columns(reference=pl.Series(answers)))
    assert dropped.select("row_id", "reason").rows() == [(table["prompt_id"][0], "leaks_answer")]
    assert dropped["detail"][0].startswith("the answer's words: ")
    assert set(rows["source_prompt_id"]) == {table["prompt_id"][1]}
    assert rows.height == 3
    kept, none, _ = made(
        SystemMessages(answers=("gold",)), table.with_columns(reference=pl.Series(answers))
    )
    assert (kept.height, none.height) == (6, 0)


# -- configuration -----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": "jannus"}, "no value system 'jannus'; did you mean 'janus'"),
        ({"values": "flames5"}, "flames5 names risks"),
        ({"values": "dark_triad"}, "dark_triad is sensitive"),
        ({"values": "hhh", "messages": 4}, "hhh has only 3 different sets of 1 values"),
        ({"values": "schwartz10", "values_per_message": 3}, "no 3 of its 4 dimensions"),
        ({"backend": "engine"}, "`engine` goes with"),
        ({"engine": {"engine": "scripted", "answers": []}}, "`engine` goes with"),
        ({"parts": "nothing"}, "no pool 'nothing'"),
    ],
)
def test_mistakes_are_found_with_the_recipe(fields, message):
    with pytest.raises(ConfigError, match=message):
        recipe({STEP: fields})


def test_what_stands_in_a_file_is_identity(tmp_path):
    file = tmp_path / "mine.yaml"
    text = "system: mine\ntitle: t\nkind: values\nlevels: [a]\nnodes:\n"
    file.write_text(text + "  - {id: x, label: X}\n  - {id: y, label: Y}\n")
    one = SystemMessages(values=str(file), messages=2).fingerprint()
    file.write_text(text + "  - {id: x, label: X}\n  - {id: y, label: Z}\n")
    import os

    os.utime(file, ns=(1, 1))
    assert SystemMessages(values=str(file), messages=2).fingerprint() != one
    rows, _, _ = made(SystemMessages(values=str(file), messages=2), questions(3))
    assert set(rows["value_ids"].explode()) == {"mine:x", "mine:y"}


def test_sensitive_values_are_used_by_who_says_so():
    rows, _, _ = made(SystemMessages(values="dark_triad", sensitive=True), questions(2))
    assert rows.height == 6


# -- engines -----


def writer(request):
    """A model that does both steps: JSON for the first, a paragraph for the second."""
    asked = request.conversation[0]["content"]
    if "Return JSON only" in asked:
        names = re.findall(r'"dimension": "(.*?)"', asked)
        values = re.findall(r"this person's value: (.*?)(?: \(|$)", asked, re.MULTILINE)
        entries = [
            {"dimension": n, "preference": f"{n} key", "description": f"Wants {v}."}
            for n, v in zip(names, values, strict=True)
        ]
        return "```json\n" + json.dumps({"preferences": entries}) + "\n```"
    wants = re.findall(r"^- (.*)$", asked, re.MULTILINE)
    return f'"You are a guide. {" ".join(wants)}"'


def stumbling(request):
    """Wrong the first time each, right when corrected; for one prompt never."""
    if "number 3" in request.conversation[0]["content"]:
        return "I'd rather not."
    if len(request.conversation) == 1:
        return "- a list"
    return writer(request)


def failing(request):
    return (
        Failure("http_500", "down") if "number 1?" in str(request.conversation) else writer(request)
    )


def leaking(request):
    found = writer(request)
    return found.replace("a guide", "a guide and the answer is seven times eight")


def monotonous(request):
    return re.sub("Wants .*?[.]", "Wants this.", writer(request))


def engine(name):
    return Scripted(function=f"{__name__}.{name}")


def test_the_engine_writes_sets_and_messages():
    step = SystemMessages(backend="engine", engine=engine("writer"))
    rows, dropped, state = made(step, questions(4))
    assert (rows.height, dropped.height) == (12, 0)
    assert "diversity" not in state.info
    labels = [load("janus").by_id[v.removeprefix("janus:")].label for v in rows["value_ids"][0]]
    assert said(rows)[0] == " ".join(["You are a guide.", *[f"Wants {n}." for n in labels]])
    entry = rows["preference_set"][0].to_list()[1]
    assert entry["preference"] == "Background knowledge key"
    assert entry["value_id"] == rows["value_ids"][0][1]
    assert [a.calls for a in step.asks(4, 4)] == [12, 12]
    assert SystemMessages().asks(4, 4) == []


def test_what_the_model_is_asked():
    step = SystemMessages(backend="engine", engine=engine("writer"), messages=1)
    seen = []

    class Listening:
        def asked_for(self, purpose, calls=None):
            return self

        def generate(self, conversations, sampling, row_ids=None):
            seen.extend(zip(conversations, row_ids, strict=True))
            return opened.generate(conversations, sampling, row_ids)

    opened = step.engine.open()
    ctx = asking()
    ctx = Context(step=ctx.step, engine=lambda config: Listening())
    table = prompts("Explain {{ 7 * 7 }} tides.")
    rows, _, _ = made(step, table, ctx)
    first, second = (c[0]["content"] for c, _ in seen)
    assert "Explain {{ 7 * 7 }} tides." in first
    node = load("janus").by_id[rows["value_ids"][0][0].removeprefix("janus:")]
    assert f"this person's value: {node.label}" in first
    assert "values of others: " in first
    assert f"Wants {node.label}." in second
    assert "tides" not in second  # the merge can't answer what it does not see
    prompt = table["prompt_id"][0]
    assert [i for _, i in seen] == [f"{prompt}/0/preferences", f"{prompt}/0/message"]


def test_wrong_answers_are_corrected_or_their_prompt_leaves_whole():
    step = SystemMessages(backend="engine", engine=engine("stumbling"))
    rows, dropped, _ = made(step, questions(4))
    assert rows.height == 9
    assert dropped.select("reason").to_series().to_list() == ["unparseable"]
    assert "no JSON" in dropped["detail"][0]
    assert set(rows["source_prompt_id"]).isdisjoint(dropped["row_id"])


def test_failures_and_leaks_go_to_the_ledger():
    step = SystemMessages(backend="engine", engine=engine("failing"))
    rows, dropped, _ = made(step, questions(4))
    assert rows.height == 9
    assert dropped.select("reason", "detail").rows() == [("http_500", "down")]
    step = SystemMessages(backend="engine", engine=engine("leaking"), leak_words=4)
    table = questions(2).with_columns(
        reference=pl.Series(["the answer is seven times eight", None])
    )
    rows, dropped, _ = made(step, table.sort("prompt_id"))
    assert dropped["reason"].to_list() == ["leaks_answer"]
    assert rows.height == 3


def test_one_message_for_two_sets_is_no_set():
    step = SystemMessages(backend="engine", engine=engine("monotonous"), messages=2)
    rows, dropped, _ = made(step, questions(2))
    assert (rows.height, dropped["reason"].to_list()) == (0, ["same_message"] * 2)


def test_an_engine_must_be_there():
    step = SystemMessages(backend="engine", engine=engine("writer"))
    with pytest.raises(ConfigError, match="opens none"):
        made(step, questions(1), Context())


KNOWN = (2, frozenset({"style", "tone"}))


def entry(dimension, **more):
    return {"dimension": dimension, "preference": "p", "description": "d", **more}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "That is no JSON"),
        ("[]", 'an object with a list "preferences"'),
        ('{"preferences": [1]}', 'an object with a list "preferences" of objects'),
        (
            json.dumps({"preferences": [entry("Style"), entry("Tone", preference=" ")]}),
            "none empty",
        ),
        (json.dumps({"preferences": [entry("Style"), entry("Tune")]}), "'Tune' is none of"),
        (
            json.dumps(
                {"preferences": [entry("Style"), entry("Tone", preference="<a few words>")]}
            ),
            "Write what <a few words> stands for",
        ),
        (json.dumps({"preferences": [entry("Style")]}), "Return 2 entries.*these are 1"),
        (json.dumps({"preferences": [entry("Style"), entry("style")]}), "Return 2 entries"),
    ],
)
def test_sets_of_the_wrong_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse_preferences(text, KNOWN)


def test_sets_of_the_right_form():
    text = json.dumps({"preferences": [entry("TONE", preference=" x "), entry("Style")]})
    assert parse_preferences(text, KNOWN) == {"tone": ("x", "d"), "style": ("p", "d")}
    assert schema(3)["properties"]["preferences"]["minItems"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "empty"),
        ("You are:\n- kind\n- wise", "without lists"),
        ("You are kind.\n\nYou are wise.", "one paragraph"),
        ("The assistant is kind.", "second person"),
        ("You serve the user's preferences.", "Don't use the word 'preferences'"),
        ("You " + "very " * 200 + "kind", "at most 200 words"),
    ],
)
def test_messages_of_the_wrong_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse_message(text)


def test_quotation_marks_go():
    assert parse_message(' "You are kind." ') == "You are kind."


# -- whole runs -----

FEW = questions(30)
ROLES = prompts("You are a dragon. Roar.", "Act as a tree.")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "engine"])
def test_shards_order_and_files_change_nothing(tmp_path, backend):
    fields = {"messages": 2}
    if backend == "engine":
        fields |= {
            "backend": "engine",
            "engine": {"engine": "scripted", "function": f"{__name__}.stumbling"},
        }
    table = pl.concat([FEW, ROLES])
    tests = asking()

    def digest_of(name, source, shard_rows, workers=1):
        from prefactory.run import execute
        from prefactory.stages import Options, thread_mapper
        from prefactory.store import Store

        options = Options(workers=workers, shard_rows=shard_rows, engine=tests.engine)
        mapper = thread_mapper(workers)
        return execute(recipe({STEP: fields}), [source], Store(tmp_path / name), mapper, options)

    whole = digest_of("a", one_file(table), 1000)
    mixed = table.sample(fraction=1, shuffle=True, seed=3)
    cut = digest_of("b", MemorySource({"a": [mixed[:7]], "b": [mixed[7:20], mixed[20:]]}), 4, 3)
    assert digest(whole) == digest(cut)
    assert whole.stages[-1].info == cut.stages[-1].info
    assert {r: n for r, n in whole.stages[-1].reasons.items() if r == "has_role"} == {"has_role": 2}
    rows = view(whole, "prompts")
    accounted = set(rows["source_prompt_id"]) | set(ledger_of(whole)["row_id"])
    assert accounted == set(table["prompt_id"])


def test_the_seed_changes_the_texts(tmp_path):
    one = run(recipe({STEP: {}}, seed=1), one_file(FEW), tmp_path / "s")
    two = run(recipe({STEP: {}}, seed=2), one_file(FEW), tmp_path / "s")
    assert set(said(view(one, "prompts"))).isdisjoint(said(view(two, "prompts")))


# -- measuring what came out -----


def test_measuring_what_came_out(tmp_path):
    steps = ({STEP: {}}, "generators.MessageCoverage")
    result = run(recipe(*steps), one_file(questions(100)), tmp_path / "s", shard_rows=17)
    planned, found = (s.info for s in result.stages[1:])
    assert found["rows"] == 300
    assert found["by_source"] == {"value": 300}
    assert found["coverage"] == {"janus": planned["coverage"]}
    assert found["distinct_sets"] == 300
    whole = run(recipe(*steps), one_file(questions(100)), tmp_path / "t", shard_rows=1000)
    assert whole.stages[-1].info == found


def test_measures_of_words_are_those_of_the_texts():
    from prefactory.measures import diversity

    rows, _, _ = made(SystemMessages(messages=1), questions(40))
    step, ctx = MessageCoverage(sample=50), Context(step="m")
    state = step.fit(step.fit_shard(rows, ctx).sort("prompt_id"), ctx)
    expected = diversity.of_texts(said(rows.sort(ctx.uniform(rows["prompt_id"], "sample"))), 50)
    expected.pop("compression_ratio")
    assert state.info["diversity"] == expected


def test_vendi_needs_vectors():
    import numpy as np

    from prefactory.engines.encoder import Encoder

    rows, _, _ = made(SystemMessages(messages=1), questions(6))
    ctx = Context(step="m", embed=lambda encoder, texts: np.eye(6, 8)[: len(texts)])
    step = MessageCoverage(encoder=Encoder())
    state = step.fit(step.fit_shard(rows, ctx).sort("prompt_id"), ctx)
    assert state.info["diversity"]["vendi"] == pytest.approx(6)
    assert step.opens_engines()
    with pytest.raises(ConfigError, match="needs an encoder"):
        step.fit_shard(rows, Context())


def test_a_cap_on_the_same_values():
    rows, _, _ = made(SystemMessages(values="hhh", messages=3), questions(10))
    step, ctx = MessageCoverage(most_alike=4), Context(step="m")
    state = step.fit(step.fit_shard(rows, ctx).sort("prompt_id"), ctx)
    dropped = apply_filter(step, "m", rows, Shape.PROMPTS, Context(step="m", state=state))
    assert dropped["reason"].to_list() == ["frequent_set"] * 18
    kept = rows.filter(~pl.col("prompt_id").is_in(dropped["row_id"].implode()))
    assert kept["value_ids"].list.first().value_counts()["count"].to_list() == [4, 4, 4]


def test_prompts_without_messages_are_measured_too():
    table = questions(3).with_columns(
        system_source=pl.lit(None, pl.String),
        value_system=pl.Series([None, "theirs", "theirs"]),
        value_ids=pl.Series([None, ["theirs:a"], []], dtype=pl.List(pl.String)),
    )
    step, ctx = MessageCoverage(), Context(step="m")
    state = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx)
    assert state.info["by_source"] == {"none": 3}
    assert state.info["coverage"] == {"theirs": {"rows": 2}}
    assert state.info["diversity"] == {"texts": 0, "distinct_texts": 0}
