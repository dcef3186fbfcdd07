"""Messages by domain: shares, pools, unknown domains."""

import json

import polars as pl
import pytest

from generators import SystemPromptMix, pools
from generators.system_messages.mix import fold, load_pools
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape, check
from tests.helpers import digest, one_file, prompts, recipe, run

STEP = "generators.SystemPromptMix"
DEFAULT = "You are a helpful assistant."


def asked(*domains):
    table = prompts(*[f"question {i}" for i in range(len(domains))])
    return table.with_columns(domain=pl.Series(list(domains)))


def made(table, **fields):
    rows, dropped = apply_generator(
        SystemPromptMix(**fields), STEP, table, Shape.PROMPTS, Context(step="s")
    )
    check(rows, Shape.PROMPTS)
    text = pl.col("prompt").list.first().struct.field("content")
    return rows.with_columns(text=text), dropped


def test_three_in_ten_get_the_default_and_the_others_one_of_their_domain():
    table = asked(*["code", "math", "law"] * 1000)
    rows, dropped = made(table)
    assert (rows.height, dropped.height) == (3000, 0)
    default = rows.filter(pl.col("system_source") == "default")
    assert default["text"].unique().to_list() == [DEFAULT]
    assert abs(default.height - 900) < 5 * (3000 * 0.3 * 0.7) ** 0.5
    found = load_pools("domain_prompts")
    for domain in ("code", "math", "law"):
        pool = found.messages[found.names[domain]]
        mine = rows.filter((pl.col("domain") == domain) & (pl.col("system_source") == "domain"))
        counts = mine["text"].value_counts()
        assert set(counts["text"]) == set(pool)
        expected = mine.height / len(pool)
        assert (counts["count"].cast(pl.Float64) - expected).abs().max() < 5 * expected**0.5
    assert rows["value_ids"].null_count() == rows["value_system"].null_count() == 3000


def test_every_shipped_domain_has_eight_messages_and_one_name():
    data = pools.read("domain_prompts")
    assert len(data) >= 12
    said = [m for d in data.values() for m in d["messages"]]
    assert len(said) == len(set(said))
    assert min(len(d["messages"]) for d in data.values()) >= 8


def test_names_of_domains_are_folded():
    rows, _ = made(asked("Question-Answering", " CODING", "tool_use", "law"), default_share=0)
    found = load_pools("domain_prompts")
    for domain, text in rows.select("domain", "text").iter_rows():
        assert text in found.messages[found.names[fold(domain)]]
    assert fold("  Tool_use-X ") == "tool use x"


def test_unknown_domains():
    table = asked("code", "gardening", None)
    rows, dropped = made(table, default_share=0)
    assert sorted(rows["system_source"]) == ["default", "default", "domain"]
    rows, dropped = made(table, default_share=0, unknown="drop")
    assert rows["domain"].to_list() == ["code"]
    assert set(dropped.select("reason", "detail").rows()) == {
        ("unknown_domain", "gardening"),
        ("unknown_domain", "no domain"),
    }


def test_lists_of_domains_count_the_first_that_is_known():
    table = asked(["gardening", "math", "code"], [], None, ["code", "math"])
    rows, _ = made(table, several=True, default_share=0)
    found = load_pools("domain_prompts")
    by = dict(zip(rows["source_id"], rows["text"], strict=True))
    assert by["test:0"] in found.messages[found.names["math"]]
    assert by["test:1"] == by["test:2"] == DEFAULT
    assert by["test:3"] in found.messages[found.names["code"]]


def test_all_and_none_get_the_default():
    table = asked(*["code"] * 50)
    assert made(table, default_share=1)[0]["system_source"].unique().to_list() == ["default"]
    assert made(table, default_share=0)[0]["system_source"].unique().to_list() == ["domain"]
    assert made(table, default_share=1, default="Hi.")[0]["text"].unique().to_list() == ["Hi."]
    assert made(table[:0])[0].height == 0


def test_roles_leave():
    table = prompts("You are a cook. Cook.", "plain").with_columns(domain=pl.lit("code"))
    _, dropped = made(table)
    assert dropped["reason"].to_list() == ["has_role"]


MESSAGES = [f"You are number {i}." for i in range(8)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": {"messages": MESSAGES[:7]}}, "a has 7 different messages; 8 or more"),
        ({"a": {"messages": [*MESSAGES[:7], " You are  number 1."]}}, "a has 7 different messages"),
        (
            {"a": {"messages": MESSAGES, "also": ["b"]}, "b": {"messages": MESSAGES}},
            "'b' is the na",
        ),
        ({"a": {"message": MESSAGES}}, r"a\.messages: Field required"),
        ([], "dictionary"),
    ],
)
def test_pools_of_ones_own_are_checked(tmp_path, data, message):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        recipe({STEP: {"pools": str(file)}})


def test_a_pool_of_ones_own_is_identity(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"a": {"messages": MESSAGES}}))
    step = SystemPromptMix(pools=str(file), default_share=0)
    assert step.identity()["pools"]["messages"] == [MESSAGES]
    rows, _ = made(asked("A", "a"), pools=str(file), default_share=0)
    assert set(rows["text"]) <= set(MESSAGES)


def test_a_missing_column_is_found_with_the_recipe(tmp_path):
    with pytest.raises(ConfigError, match="needs column 'domain'"):
        run(recipe(STEP), one_file(prompts("a")), tmp_path / "s")


def test_shards_and_order_change_nothing(tmp_path):
    table = asked(*["code", "law", "x"] * 10)
    whole = run(recipe(STEP), one_file(table), tmp_path / "a")
    mixed = table.sample(fraction=1, shuffle=True, seed=1)
    cut = run(recipe(STEP), one_file(mixed), tmp_path / "b", shard_rows=4, workers=2)
    assert digest(whole) == digest(cut)
