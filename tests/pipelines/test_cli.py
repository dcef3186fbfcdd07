import errno
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
import yaml
from datasets import load_from_disk
from typer.testing import CliRunner

from pipelines.cli import app as module
from pipelines.cli.app import app
from prefactory.errors import ConfigError
from tests.pipelines.conftest import command, warm


def run_json(prefactory, *words, **env):
    done = prefactory("run", "recipe.yaml", "--runner", "threads", "--json", *words, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from pipelines.cli.app import app; "
        "print([m for m in ('torch', 'transformers', 'prefect', 'trl', 'datasets', 'polars')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_ends_at_sigterm_with_a_line_and_exit_code_3():
    """Also those that set no handler of their own, and `deploy` before Prefect sets its."""
    code = (
        "import os, signal, sys; from pipelines.cli import app; "
        "app.app = lambda **_: os.kill(os.getpid(), signal.SIGTERM); app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip() == "stopped; run the same command again to resume"


@pytest.mark.parametrize("converted", [False, True])
def test_a_full_disk_is_exit_code_3_wherever_it_was_met(monkeypatch, capsys, converted):
    def full(**_):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/out")
        if converted:
            raise ConfigError("--out '/x/out' can't be written") from error
        raise error

    monkeypatch.setattr(module, "app", full)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as told:
        module.main()
    assert told.value.code == 3
    assert "/x/out" in capsys.readouterr().err


def test_the_commands_of_these_tests_are_warm_after_one_in_their_own_process():
    assert CliRunner().invoke(app, ["steps"]).exit_code == 0
    assert warm().fits({})


def test_a_run_publishes_a_version_that_datasets_opens(prefactory, small):
    made = run_json(prefactory)
    version = Path(small / made["path"])
    pairs = load_from_disk(str(version / "pairs"))
    manifest = json.loads((version / "manifest.json").read_text())
    assert {s: len(pairs[s]) for s in pairs} == manifest["tables"]["pairs"]["splits"]
    row = pairs["train"][0]
    assert row["prompt"][-1]["role"] == "user"
    assert [m["role"] for m in row["chosen"]] == ["assistant"]
    assert row["margin"] == pytest.approx(row["chosen_score_reward"] - row["rejected_score_reward"])


def test_every_row_is_published_or_in_the_ledger(prefactory, small):
    made = run_json(prefactory)
    ledger = pl.read_parquet(Path(small / made["path"]) / "ledger.parquet")
    source, *_, last = made["stages"]
    assert source["rows_in"] == 201
    assert source["rows_in"] == last["rows_out"] + ledger.height
    assert ledger.filter(step="source").to_dicts()[0]["row_id"] == "pairs.jsonl:201"
    assert ledger["reason"].null_count() == 0


def test_a_second_run_computes_and_publishes_nothing(prefactory):
    first, second = run_json(prefactory), run_json(prefactory)
    assert first["new"]
    assert not second["new"]
    assert first["path"] == second["path"]
    assert sum(s["made"] for s in second["stages"]) == 0


@pytest.mark.parametrize(
    ("words", "env"),
    [
        pytest.param(["--shard-rows", "7"], {}, marks=pytest.mark.slow),
        pytest.param(["--workers", "1"], {}, marks=pytest.mark.slow),
        (["--shard-rows", "33", "--workers", "4"], {"PYTHONHASHSEED": "5"}),
    ],
)
def test_shards_workers_and_hash_seed_do_not_change_the_digest(prefactory, small, words, env):
    plain = run_json(prefactory)
    other = run_json(prefactory, *words, PREFACTORY_HOME=str(small / "other"), **env)
    assert other["content_digest"] == plain["content_digest"]
    one, two = (small / "home", small / "other")
    for file in sorted(one.glob("versions/**/*.arrow")):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


def test_the_order_and_cut_of_input_files_do_not_change_the_rows(prefactory, small):
    whole = run_json(prefactory)
    lines = (small / "pairs.jsonl").read_text().splitlines(keepends=True)[:200]
    (small / "parts").mkdir()
    (small / "parts" / "b.jsonl").write_text("".join(lines[:50]))
    (small / "parts" / "a.jsonl").write_text("".join(reversed(lines[50:])))
    cut = run_json(prefactory, "source.path=parts", PREFACTORY_HOME=str(small / "other"))

    def rows(made):
        pairs = load_from_disk(str(small / made["path"] / "pairs"))
        return [r for s in ("train", "test") for r in pairs[s].remove_columns("source_id")]

    assert rows(cut) == rows(whole)


def test_prefect_runs_the_same_flow(prefactory, small):
    plain = run_json(prefactory)
    done = prefactory(
        "run", "recipe.yaml", "--shard-rows", "50", PREFACTORY_HOME=str(small / "other")
    )
    assert done.returncode == 0, done.stderr
    assert plain["content_digest"] in done.stdout
    assert "report.html" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("filters.Length", "filters.Lenght", ["line 5", "did you mean 'filters.Length'"]),
        ("min_words: 2", "min_word: 2", ["line 5", "'min_words'"]),
        ("filters.Quality: {}", "filters.Nothing: {}", ["line 6"]),
        ("objective: reward", "objective: rewrad", ["line 10", "chosen_score_rewrad"]),
        ("seed: 3", "seeed: 3", ["line 2", "'seed'"]),
        ("name: small\n", "name: ../small\n", ["line 1"]),
        ("path: pairs.jsonl", "path: nowhere.jsonl", ["nowhere.jsonl"]),
        ("layout: hh", "layout: hhh", ["hhh"]),
        ("fraction: 0.8", "fraction: lots", ["line 11"]),
        ("weights: {length: 1, repetition: 1}", "weights: {lenght: 1}", ["score_lenght"]),
    ],
)
def test_bad_recipes_fail_before_anything_runs(prefactory, small, old, new, expected):
    recipe = small / "recipe.yaml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    done = prefactory("plan", "recipe.yaml")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for words in expected:
        assert words in done.stderr
    assert not (small / "home").exists()


def test_a_filter_before_its_score_is_told_to_move(prefactory, small):
    recipe = small / "recipe.yaml"
    lines = recipe.read_text().splitlines()
    i = next(i for i, line in enumerate(lines) if "labelers.Margin" in line)
    j = next(i for i, line in enumerate(lines) if "labelers.Combine" in line)
    lines[i], lines[j] = lines[j], lines[i]
    recipe.write_text("\n".join(lines))
    done = prefactory("plan", "recipe.yaml")
    assert done.returncode == 2
    assert "labelers.Combine (line 10) makes only later: move it up" in done.stderr


def test_all_mistakes_are_told_at_once(prefactory, small):
    recipe = small / "recipe.yaml"
    text = recipe.read_text().replace("min_words", "mn_words").replace("seed:", "sed:")
    recipe.write_text(text)
    for verb in ("check", "plan", "run"):
        done = prefactory(verb, "recipe.yaml")
        assert done.returncode == 2
        assert "mn_words" in done.stderr
        assert "sed" in done.stderr


def test_an_unreadable_source_is_one_error(prefactory, small):
    (small / "pairs.jsonl").write_bytes(b"\x00\x01\x02 not json\n" * 3)
    done = prefactory("run", "recipe.yaml", "--runner", "threads")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "pairs.jsonl" in done.stderr or "--dry-run" in done.stderr


def test_import_dry_run_shows_layout_counts_and_three_rows(prefactory):
    done = prefactory("import", "pairs.jsonl", "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("hh", "201", "200", "malformed", "pairs.jsonl:1", "pairs.jsonl:3", "[user]"):
        assert words in done.stdout


def test_encoding_and_separator_can_be_said_to_import_audit_and_init(tmp_path):
    rows = [f"почему {i}?~потому {i}~нет {i}" for i in range(30)]
    text = "prompt~chosen~rejected\n" + "\n".join(rows) + "\n"
    (tmp_path / "pairs.csv").write_bytes(text.encode("cp1251"))
    said = ("--encoding", "cp1251", "--separator", "~")

    def run(*words):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    facts = json.loads(run("import", "pairs.csv", "--dry-run", "--json", *said))
    assert facts["rows"] == 30
    assert facts["first"][0]["chosen"][0]["content"] == "потому 0"
    run("audit", "pairs.csv", "--no-embeddings", *said)
    run("init", "pairs.csv", "--out", "made.yaml", *said)
    source = yaml.safe_load((tmp_path / "made.yaml").read_text("utf-8"))["source"]
    assert (source["encoding"], source["separator"]) == ("cp1251", "~")


def test_import_publishes_as_it_is(prefactory):
    done = prefactory("import", "pairs.jsonl", "--name", "raw")
    assert done.returncode == 0, done.stderr
    shown = json.loads(prefactory("catalog", "show", "raw", "--json").stdout)
    assert sum(shown["tables"]["pairs"]["splits"].values()) == 200


def test_catalog_list_show_verify_and_damage(prefactory, small):
    made = run_json(prefactory)
    assert "small" in prefactory("catalog", "list").stdout
    assert "filters.Length" in prefactory("catalog", "show", "small").stdout
    assert prefactory("catalog", "verify", "small").returncode == 0
    file = next((small / made["path"]).glob("pairs/train/*.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    done = prefactory("catalog", "verify", "small")
    assert done.returncode == 1
    assert "sha256" in done.stderr


def test_unknown_names_give_the_nearest(prefactory):
    run_json(prefactory)
    done = prefactory("catalog", "show", "smal")
    assert done.returncode == 2
    assert "did you mean 'small'" in done.stderr
    done = prefactory("export", "small", "--layout", "trll", "--out", "x")
    assert done.returncode == 2
    assert "did you mean 'trl'" in done.stderr


def test_export_loads_in_its_consumer(prefactory, small):
    run_json(prefactory)
    for layout, columns in (
        ("trl", {"prompt", "chosen", "rejected"}),
        ("trl-implicit", {"chosen", "rejected", "margin"}),
        ("kto", {"prompt", "completion", "label"}),
    ):
        done = prefactory("export", "small", "--layout", layout, "--out", layout)
        assert done.returncode == 0, done.stderr
        assert columns <= set(load_from_disk(str(small / layout))["train"].column_names)


def test_a_new_recipe_under_an_old_version_is_refused(prefactory, small):
    run_json(prefactory, "version=1.0")
    done = prefactory(
        "run", "recipe.yaml", "--runner", "threads", "version=1.0", "filters.Length.min_words=5"
    )
    assert done.returncode == 2
    assert "min_words: 2 -> 5" in done.stderr


def test_the_version_is_told(prefactory):
    assert prefactory("--version").stdout == f"prefactory {metadata.version('prefactory')}\n"


@pytest.mark.slow
def test_two_flows_in_threads_of_one_process_return_their_own_versions(small):
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from pipelines.flows import run_curate\n"
        "from pipelines.settings import Settings\n"
        "def run(name): return run_curate(Path('recipe.yaml'), [f'name={name}'], Settings())\n"
        "first = run('a')\n"  # starts the server
        "with ThreadPoolExecutor(2) as pool:\n"
        "    for outcome in (first, *pool.map(run, 'bc')):\n"
        "        print(outcome.published.version.manifest.name)\n"
    )
    env = {**os.environ, "PREFACTORY_HOME": "home", "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["a", "b", "c"], done.stderr
