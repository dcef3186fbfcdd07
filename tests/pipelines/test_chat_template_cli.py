"""A template that leaves something out: what train, export and audit say, by their commands."""

from __future__ import annotations

import json

import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from pipelines.cli.app import app
from prefactory.errors import PrefactoryError
from tests.helpers import tiny_llama
from tests.prefactory.test_chat_template import REFUSES, SKIPS, STRIPS

RECIPE = (
    "name: sys\nsource: {path: p.jsonl, name: p, license: mit}\nsteps: []\n"
    "publish: {test_fraction: 0, near_duplicates: false}\n"
)


def row(prompt, chosen, rejected, system=None):
    front = [{"role": "system", "content": system}] if system else []
    return {
        "prompt": [*front, {"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


ROWS = [
    *[row(f"please go {i}", f"go {i}", f"no {i}", "You are calm.") for i in range(6)],
    row("whatever", "<think>certainly</think>go", "<think>please</think>go"),
]


def cli(*args):
    """Exit code, and what was printed or, where it ends in an error of ours, the error's words."""
    result = CliRunner().invoke(app, list(map(str, args)))
    if isinstance(result.exception, PrefactoryError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    """A home with the version `sys`, and a model with a template."""
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "sys.yaml").write_text(RECIPE)
    code, out = cli("run", "sys.yaml", "--runner", "threads")
    assert code == 0, out

    def with_template(text):
        (tmp_path / "template.jinja").write_text(text)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = text
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return tmp_path / "tokenizer"

    return with_template


def train(model, *more):
    return cli(
        "train", "dpo", "sys", "--model", model, "--out", "out", "max_steps=1",
        "per_device_train_batch_size=2", "gradient_accumulation_steps=1",
        "chat_template=template.jinja", *more,
    )  # fmt: skip


def test_training_refuses_ignored_system_messages_and_the_printed_cure_trains(
    here, model, tmp_path
):
    here(SKIPS)
    code, out = train(model)
    assert code == 2
    assert "leaves out system messages, which 6 of 7 pairs have" in " ".join(out.split())
    assert not (tmp_path / "out").exists()
    code, out = train(model, "ignored_system=keep")
    assert code == 0, out
    assert "leaves out the system messages of 6 pairs" in out
    assert "leaves out the system messages" in (tmp_path / "out" / "README.md").read_text()
    notes = json.loads((tmp_path / "out" / "training.json").read_text())["notes"]
    assert any("leaves out the system messages" in note for note in notes)


def test_training_counts_what_the_template_refuses_or_makes_equal(here, model, tmp_path):
    here(STRIPS)
    code, out = train(model)
    assert code == 0, out
    assert "dropped  1 pairs: equal_rendered" in out
    here(REFUSES)
    code, out = cli("train", "reward", "sys", "--model", model, "--out", "reward", "max_steps=1",
                    "chat_template=template.jinja", "per_device_train_batch_size=1",
                    "gradient_accumulation_steps=1")  # fmt: skip
    assert code == 0, out
    assert "dropped  6 pairs: template_refuses: System role not supported" in out


def test_export_leaves_out_what_the_template_loses(here, tmp_path):
    code, out = cli("export", "sys", "--layout", "trl", "--out", "one", "--tokenizer", here(STRIPS))
    assert code == 0, out
    assert "1 of 7 pairs left out: equal_rendered" in out
    assert load_from_disk(str(tmp_path / "one"))["train"].num_rows == 6
    assert "equal_rendered" in (tmp_path / "one" / "README.md").read_text()
    code, out = cli("export", "sys", "--layout", "trl", "--out", "two", "--tokenizer", here(SKIPS))
    assert code == 2
    assert "leaves out system messages" in " ".join(out.split())
    assert not (tmp_path / "two").exists()
    command = ("export", "sys", "--layout", "trl", "--out", "two", "--tokenizer", here(SKIPS))
    assert cli(*command, "--ignored-system", "keep")[0] == 0


def test_the_audit_renders_with_a_tokenizer(here, tmp_path):
    code, out = cli("audit", "p.jsonl", "--tokenizer", here(SKIPS), "--no-embeddings", "--json")
    assert code == 0, out
    finding = next(f for f in json.loads(out)["findings"] if f["check"] == "chat_template")
    assert finding["severity"] == "fault"
    assert "leaves out system messages" in finding["headline"]
    code, out = cli("audit", "p.jsonl", "--no-embeddings", "--json")
    finding = next(f for f in json.loads(out)["findings"] if f["check"] == "chat_template")
    assert "--tokenizer" in finding["headline"]
