import json

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from prefactory.errors import PrefactoryError

RECIPE = """\
name: answers
seed: 3
source: {path: answers.jsonl, layout: helpsteer2, name: small, license: mit}
steps:
  - labelers.R3: {objectives: [length, repetition]}
  - labelers.Combine:
      {name: overall, method: linear, weights: {helpfulness: 1, verbosity: -0.5}}
  - labelers.Pairs: {objective: overall, strategy: all}
publish: {test_fraction: 0.25}
"""
BARE = """\
name: bare
source: {path: bare.jsonl, name: small, mapping: {prompt: prompt, response: response}}
steps: []
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, prefactory_in):
    """A version with ratings and one without any score."""
    folder = tmp_path_factory.mktemp("compare")
    rows = [
        {"prompt": f"question {i // 3}", "response": f"answer number {i} " * (1 + i % 5),
         "helpfulness": i % 4, "correctness": (i * 7) % 5, "coherence": 4, "complexity": i % 2,
         "verbosity": (i * 3) % 5}
        for i in range(60)
    ]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    plain = [{"prompt": r["prompt"], "response": r["response"]} for r in rows]
    (folder / "bare.jsonl").write_text("".join(json.dumps(r) + "\n" for r in plain))
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "bare.yaml").write_text(BARE)
    for name in ("recipe.yaml", "bare.yaml"):
        done = prefactory_in(folder, "run", name, "--runner", "threads")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def compare(home, monkeypatch):
    """The command in this process: output, or the user's error."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("PREFACTORY_HOME", str(home / "home"))

    def run(*words):
        done = CliRunner().invoke(app, ["compare-aggregations", *words])
        if isinstance(done.exception, PrefactoryError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_the_matrix_counts_above_the_diagonal_and_shares_below(compare):
    text = compare("answers", "--objectives", "helpfulness,verbosity", "--full")
    data = json.loads(compare("answers", "--objectives", "helpfulness,verbosity", "--json"))
    assert [a["name"] for a in data["aggregations"]] == [
        *("mean of z", "sum", "log-sigmoid", "MAP", "soft minimum", "Pareto rank"),
        *("helpfulness", "verbosity"),
    ]
    published = data["pairs"]["published pairs"]
    assert published["pairs"] == 58
    row = next(r for r in published["flips"] if (r["a"], r["b"]) == ("helpfulness", "verbosity"))
    assert row["n"] == row["same"] + row["flips"] + row["one_tied"] + row["both_tied"] == 58
    block = text.split("published pairs")[1].split("all agree")[0].splitlines()
    lines = [line.split() for line in block[2:] if line.strip()]
    assert [line[0] for line in lines] == [str(i) for i in range(1, 10)]
    assert lines[7][-2:] == [".", str(row["flips"])]  # helpfulness: itself, then verbosity
    assert lines[8][-2:] == [f"{100 * row['flips_share']:.1f}", "."]
    assert f"helpfulness / verbosity: {row['flips']} of 58, " in text


def test_scores_that_the_recipe_combined_are_compared_but_not_combined_again(compare):
    data = json.loads(compare("answers", "--json"))
    made = {a["name"]: a for a in data["aggregations"]}
    assert made["overall"]["alone"]
    assert "overall" not in made["sum"]["weights"]
    assert {"helpfulness", "length"} <= set(made["sum"]["weights"])
    assert data["skipped"] == {"coherence": "every answer scores 4"}
    label = [r for r in data["pairs"]["published pairs"]["flips"] if r["a"] == "published label"]
    assert next(r for r in label if r["b"] == "overall")["flips"] == 0


def test_own_aggregations_from_a_file_and_from_the_command_line(compare, home):
    (home / "own.yaml").write_text(
        "- labelers.Normalise: {objectives: [helpfulness, length], suffix: z}\n"
        "- labelers.Weigh:\n"
        "    {name: worst, objectives: [helpfulness_z, length_z], method: soft_min}\n"
    )
    inline = "labelers.Combine: {name: terse, weights: {helpfulness: 1, verbosity: -2}}"
    words = ("--objectives", "helpfulness", "--with", "own.yaml", "--with", inline, "--json")
    data = json.loads(compare("answers", *words))
    assert [a["name"] for a in data["aggregations"]] == ["worst", "terse", "helpfulness"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bare"], "bare@.* has no scores to aggregate .* labelers.R3"),
        (["answer"], "no dataset 'answer' .*did you mean 'answers'"),
        (["answers", "--objectives", "helpfulnes"], "no score of 'helpfulnes'; did you mean"),
        (["answers", "--objectives", "length"], "nothing to compare: 1 aggregation"),
        (["answers", "--with", "no.yaml"], "--with no.yaml: it can't be read"),
        (["answers", "--with", "labelers.Combin: {}"], "no step 'labelers.Combin'; did you mean"),
        (["answers", "--with", "labelers.Combine: {nam: x}"], "line 1: unknown key 'nam'"),
        (["answers", "--with", "filters.Quality: {}"], "filters.Quality is no labeler"),
        (["answers", "--with", "a: [1"], "line 1: expected"),
    ],
)
def test_mistakes_are_named(compare, words, message):
    with pytest.raises(PrefactoryError, match=message):
        compare(*words)


def test_a_mistake_in_a_file_has_its_line(compare, home):
    step = "labelers.Combine: {name: x, weights: {length: 1}, methd: linear}"
    (home / "wrong.yaml").write_text(f"# mine\nsteps:\n  - {step}\n")
    with pytest.raises(PrefactoryError, match=r"wrong.yaml: line 3: unknown key 'methd'"):
        compare("answers", "--with", "wrong.yaml")
