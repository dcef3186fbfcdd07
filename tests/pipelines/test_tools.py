"""Pairs that differ in a call of a tool: from a file to a version, pages, exports and a step."""

import contextlib
import json
import math
import os

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

from datasets import load_dataset, load_from_disk
from transformers import AutoTokenizer

from catalog.layouts import export
from catalog.versions import Catalog, verify
from pipelines.cli.app import main
from tests.helpers import tiny_llama
from trainers import DPO, DatasetRef, Reward, train_transformer

TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m['content'] }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def call(city):
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return [{"role": "assistant", "content": None, "tool_calls": calls}]


def say(*words):
    """Run the command in this process; it must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["prefactory", *map(str, words)])
        with contextlib.suppress(SystemExit):
            assert main() in (0, None)


def records(n=60):
    for i in range(n):
        ask = {"role": "user", "content": f"Weather in town {i}?"}
        yield {
            "prompt": [ask],
            "chosen": call(f"town {i}"),
            "rejected": call("?"),
            "tools": TOOLS if i % 2 else "[]",
        }
    deg = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"deg": 4}'}
    ask = {"role": "user", "content": "Weather in Lviv?"}
    yield {
        "prompt": [ask, *call("Lviv"), deg],
        "chosen": [{"role": "assistant", "content": "Four.", "reasoning_content": "It says 4."}],
        "rejected": [{"role": "assistant", "content": "No idea."}],
        "tools": TOOLS,
    }


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    source = home / "calls.jsonl"
    source.write_text("\n".join(map(json.dumps, records())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFACTORY_HOME", str(home / "home"))
        patch.chdir(home)
        say("import", source, "--name", "calls")
    return Catalog(home / "home").get("calls")


def test_the_version_is_whole(version):
    assert verify(version) == []
    frame = version.frame("pairs").collect()
    assert {m["content"] for talk in frame["chosen"].to_list() for m in talk} == {"", "Four."}
    assert frame.height == 61
    assert frame["tools"].null_count() == 30
    report = (version.path / "report.html").read_text()
    assert "[call] weather {" in report
    assert "[reasoning] It says 4." in report


def test_dry_run_shows_calls(tmp_path, capsys):
    source = tmp_path / "calls.jsonl"
    source.write_text("\n".join(map(json.dumps, records(4))))
    say("import", source, "--dry-run")
    shown = capsys.readouterr().out
    assert '[call] weather {"city":"town 0"}' in shown
    say("import", source, "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["first"][0]["chosen"][0]["tool_calls"]


LAYOUTS = ("trl", "trl-implicit", "kto", "sft")


@pytest.fixture(scope="module")
def exports(version, tmp_path_factory):
    folder, cache = tmp_path_factory.mktemp("exports"), tmp_path_factory.mktemp("cache")
    loaded = {}
    for layout in LAYOUTS:
        for kind in ("arrow", "parquet", "jsonl"):
            out = folder / f"{layout}-{kind}"
            export(version, layout, out, kind)
            loaded[layout, kind] = (
                load_from_disk(str(out))
                if kind == "arrow"
                else load_dataset(str(out), cache_dir=str(cache))
            )
    return loaded


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_hold_calls_and_tools_in_every_format(exports, layout):
    column = {"sft": "messages", "kto": "completion"}.get(layout, "chosen")
    first = None
    for kind in ("arrow", "parquet", "jsonl"):
        rows = exports[layout, kind]["train"].to_list()
        first = first or rows
        assert rows == first
        tools = [json.loads(r["tools"]) for r in rows if r["tools"] is not None]
        assert tools
        assert all(t == TOOLS for t in tools)
        calls = [c for r in rows for m in r[column] for c in m["tool_calls"] or ()]
        assert {c["type"] for c in calls} == {"function"}
        assert all(json.loads(c["function"]["arguments"])["city"] for c in calls)
        assert {k for r in rows for m in r[column] for k in m} >= {"reasoning_content", "name"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "trainer", "options"),
    [
        ("trl", "DPO", {}),
        ("trl", "Reward", {}),
        ("trl-implicit", "Reward", {}),
        ("kto", "KTO", {"train_sampling_strategy": "sequential"}),
        ("sft", "SFT", {}),
    ],
)
def test_trl_takes_a_step_on_calls(exports, model, one_step, tmp_path, layout, trainer, options):
    rows = exports[layout, "arrow"]["train"].select(range(16))
    loss = one_step(trainer, rows, model, tmp_path, **options)
    assert math.isfinite(loss)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [DPO, Reward])
def test_our_training_reads_calls(version, model, tmp_path, settings):
    config = settings(model=str(model), max_steps=1, gradient_accumulation_steps=1)
    report = train_transformer(config, DatasetRef(version), tmp_path / "model")
    assert report.dropped == {}
    assert report.facts["steps"] == 1


def test_training_rows_are_as_templates_read_them(version):
    from trainers.laying import in_chat_form

    rows = version.pairs("train")
    columns = ["pair_id", "prompt", "chosen", "rejected", "tools"]
    ready = in_chat_form(rows.select_columns(columns))
    for row in ready.to_list():
        assert row["prompt"][0].keys() == {"role", "content"}
        for message in row["chosen"]:
            for called in message.get("tool_calls", ()):
                assert isinstance(called["function"]["arguments"], dict)
