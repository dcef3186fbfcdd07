import textwrap

import pytest
from pydantic import ValidationError

from prefactory.errors import ConfigError
from prefactory.recipe import Head, find_step, load, nearest
from tests.helpers import SECTIONS, recipe
from tests.steps import DropLong

GOOD = """\
name: tiny
seed: 7
source: {path: data.jsonl, license: MIT}
steps:
  - tests.steps.Length
  - tests.steps.DropLong:
      limit: 20
  - tests.steps.DropLong:
  - tests.steps.Coin: {rate: 0.25}
publish:
  test_fraction: 0.2
train:
  - dpo: {epochs: 2}
"""


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "r.yaml"
        path.write_text(textwrap.dedent(text), "utf-8")
        return load(path, list(overrides), SECTIONS)

    return read


@pytest.fixture
def problems(read):
    def problems(text, *overrides):
        with pytest.raises(ConfigError) as error:
            read(text, *overrides)
        assert str(error.value) == "\n".join(error.value.problems)
        return error.value.problems

    return problems


def edited(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


# -- good recipes -----


def test_a_good_recipe(read, tmp_path):
    found = read(GOOD)
    assert (found.name, found.head.seed, found.head.publish.test_fraction) == ("tiny", 7, 0.2)
    assert [(p.label, p.line) for p in found.steps] == [
        ("tests.steps.Length", 5),
        ("tests.steps.DropLong", 6),
        ("tests.steps.DropLong#2", 8),
        ("tests.steps.Coin", 9),
    ]
    assert found.steps[1].step == DropLong(limit=20)
    assert found.steps[2].step == DropLong()
    assert [s.model_dump() for s in found.sources] == [{"path": "data.jsonl", "license": "MIT"}]
    assert [(name, config.epochs) for name, config in found.train] == [("dpo", 2)]
    assert found.path == tmp_path / "r.yaml"


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("[a.jsonl, {path: b.jsonl}]", ["a.jsonl", "b.jsonl"]),
        ("[]", []),
    ],
)
def test_forms_of_a_source(read, source, paths):
    found = read(f"name: x\nsource: {source}\nsteps: []\n")
    assert [s.path for s in found.sources] == paths


def test_models_are_frozen():
    made = recipe("tests.steps.DropLong")
    with pytest.raises(ValidationError):
        made.steps[0].step.limit = 3
    with pytest.raises(ValidationError):
        made.head.seed = 3


def test_published_yaml_reads_back_to_the_same_recipe(read):
    found = read(GOOD + "description: é\n", "tests.steps.DropLong.workers=8")
    again = read(found.to_yaml())
    assert "workers" not in found.to_yaml()
    assert "é" in found.to_yaml()
    assert again.payload([]) == found.payload([])


def test_published_yaml_keeps_the_comments_and_the_forms_of_its_file(read):
    text = """\
        # what it is for
        name: tiny   # its name
        source: {path: "data.jsonl"}   # from there
        steps:
          # the first
          - tests.steps.DropLong: {limit: 1e1, workers: 3}   # not many
          # the last
          - tests.steps.Coin:
              rate: 0.25
        """
    published = read(text, "tests.steps.Coin.rate=0.5", "seed=3")
    assert published.to_yaml() == textwrap.dedent("""\
        # what it is for
        name: tiny   # its name
        source: {path: "data.jsonl"}   # from there
        steps:
          # the first
          - tests.steps.DropLong: {limit: 1e1}               # not many
          # the last
          - tests.steps.Coin:
              rate: 0.5
        seed: 3
        """)


def test_yaml_words_that_once_were_truth_values_are_words(read):
    found = read("name: x\nsource: a\nsteps: []\ndescription: no\n", "license=off")
    assert (found.head.description, found.head.license) == ("no", "off")
    again = read(found.to_yaml())
    assert again.head == found.head


def test_payload_is_what_decides_the_rows(read):
    base = read(GOOD).payload([])
    same = ["tests.steps.DropLong.workers=3", "description=x", "license=mit", "version=v1"]
    other = ["seed=8", "name=b", "tests.steps.Coin.rate=0.5", "publish.test_fraction=0.3"]
    assert read(GOOD, *same, "publish.report_rows=1").payload([]) == base
    assert all(read(GOOD, word).payload([]) != base for word in other)


def test_payload_does_not_depend_on_the_order_of_sources(read):
    found, one, two = read(GOOD), {"name": "a"}, {"name": "b"}
    assert found.payload([one, two]) == found.payload([two, one])
    assert found.payload([one]) != found.payload([two])


# -- mistakes -----


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("seed: 7", "sed: 7", "line 2: unknown key 'sed'; did you mean 'seed'?"),
        ("seed: 7", "seed: -1", "line 2: 'seed': Input should be greater than or equal to 0"),
        ("seed: 7", "xyzzy: 1", "line 2: unknown key 'xyzzy'"),
        ("name: tiny\n", "", "line 1: 'name' is missing"),
        ("license: MIT", "licence: MIT", "line 3: unknown key 'licence'; did you mean 'license'?"),
        (
            "limit: 20",
            "limits: 20",
            "line 7: unknown key 'limits'; did you mean 'limit'?",
        ),
        (
            "limit: 20",
            "limit: many",
            "line 7: 'limit': Input should be a valid integer, unable to parse string as an "
            "integer",
        ),
        ("rate: 0.25", "rate: .nan", "line 9: 'rate': Input should be a finite number"),
        (
            "steps.Coin:",
            "steps.Coyn:",
            "line 9: no step 'tests.steps.Coyn'; did you mean 'tests.steps.Coin'?",
        ),
        (
            "- tests.steps.Coin",
            "- filter.Length",
            "line 9: no module 'filter' for the step 'filter.Length'; did you mean 'filters'?",
        ),
        (
            "- tests.steps.Length",
            "- Length",
            "line 5: 'Length' is not an import path such as filters.Length",
        ),
        (
            "- tests.steps.Length",
            "- tests.steps.pairs",
            "line 5: no step 'tests.steps.pairs'",
        ),
        (
            "- tests.steps.Length",
            "- ..helpers.Length",
            "line 5: '..helpers.Length' is not an import path such as filters.Length",
        ),
        (
            "- tests.steps.Length",
            "- .Length",
            "line 5: '.Length' is not an import path such as filters.Length",
        ),
        (
            "- tests.steps.Length",
            "- 3",
            "line 5: expected 'name: {fields}', found 3",
        ),
        (
            "- tests.steps.Length",
            "- tests.steps.Length: 3",
            "line 5: expected 'name: {fields}', found {'tests.steps.Length': 3}",
        ),
        ("test_fraction: 0.2", "test_fraction: 1", "'publish.test_fraction': Input should be less"),
        ("- dpo: {epochs: 2}", "- dpp", "line 13: no training method 'dpp'; did you mean 'dpo'?"),
        ("{epochs: 2}", "{epoch: 2}", "line 13: unknown key 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_mistake_has_its_line_and_the_nearest_right_name(problems, old, new, problem):
    (found,) = problems(edited(old, new))
    assert found.startswith("r.yaml: ")
    assert problem in found


def test_parts_of_the_wrong_form(problems):
    assert problems("name: x\nsteps: {}\ntrain: dpo\n") == [
        "r.yaml: line 1: 'source' is missing: say where the rows come from",
        "r.yaml: line 2: 'steps' must be a list of steps",
        "r.yaml: line 3: 'train' must be a list of methods",
    ]
    assert problems("name: x\nsource: 3\nsteps: []\n") == [
        "r.yaml: line 2: expected a mapping of fields, found 3"
    ]


def test_all_mistakes_are_told_at_once(problems):
    found = problems(
        """\
        nam: tiny
        source: {pth: data.jsonl}
        steps:
          - tests.steps.DropLong: {limt: 1, limit: x}
          - filters.Lenght
        train: [pdo]
        """,
        "nonsense",
    )
    assert [line.removeprefix("r.yaml: line ")[:1] for line in found[1:]] == list("11224456")
    assert len(found) == 9


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a/b", "a..b", "", "A", "x" * 65, "é", "a\n"])
@pytest.mark.parametrize("field", ["name", "version"])
def test_names_that_could_leave_the_catalog_are_refused(field, name):
    with pytest.raises(ConfigError, match="must be lower-case letters, digits"):
        recipe(**{field: name})
    with pytest.raises(ValidationError):
        Head(**{"name": "x", field: name})


@pytest.mark.parametrize("name", ["a", "0", "tiny-2_b.c", "x" * 64])
def test_names_that_are_fine(name):
    assert recipe(name=name, version=name).head.version == name


# -- yaml -----


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: x\nname: y\n", "r.yaml: line 2: the key 'name' is there twice"),
        ("name: x\nsource:\n  a: 1\n  a: 2\n", "r.yaml: line 4: the key 'a' is there twice"),
        ("name: x\ntrue: 1\n", "r.yaml: line 2: the key True is not text"),
        ("name: x\nsteps: [\n", "r.yaml: line 3: "),
        ("name: x\n\ttabs: 1\n", "r.yaml: line 2: found character '\\t'"),
        ("name: x\n--- \nname: y\n", "r.yaml: line 2: but found another document"),
        ("name: !!python/name:os.system x\n", "r.yaml: line 1: could not determine a constructor"),
        ("steps: !!python/object/apply:os.system [ls]\n", "r.yaml: line 1: the tag "),
        ("a: 1\nsource: !!python/object:x.Y {a: 1}\n", "r.yaml: line 2: the tag "),
        ("name: x\na: !env HOME\n", "r.yaml: line 2: could not determine a constructor"),
        ("a: *b\n", "r.yaml: line 1: found undefined alias"),
        ("a: &x [*x]\n", "r.yaml: nested more than 50 deep"),
        ("name: a\x01\n", "r.yaml: "),
        ('name: x\ndescription: "\\ud800"\n', "r.yaml: line 2: "),
        ("", "r.yaml: a recipe is a mapping"),
        ("# only a comment\n", "r.yaml: a recipe is a mapping"),
        ("- a\n", "r.yaml: a recipe is a mapping"),
    ],
)
def test_bad_yaml(problems, text, problem):
    (found,) = problems(text)
    assert found.startswith(problem)


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    for path in (tmp_path / "no.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="can't be read"):
            load(path, [], SECTIONS)


def test_aliases_are_allowed(read):
    found = read(
        """\
        name: x
        source: a
        steps:
          - tests.steps.DropLong: &limit {limit: 3}
          - tests.steps.DropLong: *limit
        """
    )
    assert [p.step.limit for p in found.steps] == [3, 3]


# -- overrides -----


def limits(found):
    return [p.step.limit for p in found.steps if isinstance(p.step, DropLong)]


def test_overrides(read):
    found = read(
        GOOD,
        "seed=11",
        "tests.steps.DropLong.limit=5",
        "tests.steps.DropLong#2.limit=6",
        "tests.steps.Length.name=chars",
        "publish.test_fraction=0",
        "publish.report_rows=3",
        "source.path=other.jsonl",
        "dpo.epochs=9",
        "description=a=b: [c",
    )
    assert limits(found) == [5, 6]
    assert found.head.seed == 11
    assert found.steps[0].step.name == "chars"
    assert (found.head.publish.test_fraction, found.head.publish.report_rows) == (0, 3)
    assert found.sources[0].path == "other.jsonl"
    assert found.train[0][1].epochs == 9
    assert found.head.description == "a=b: [c"


def test_the_last_override_wins(read):
    words = [f"tests.steps.DropLong.limit={n}" for n in (1, 2)]
    assert limits(read(GOOD, *words)) == [2, 10]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("seed", "override 'seed': write key=value"),
        ("=3", "override '=3': write key=value"),
        ("name.x=3", "override 'name.x=3': no 'name.x' in r.yaml"),
        ("tests.x=3", "override 'tests.x=3': no 'tests.x' in r.yaml"),
        ("train.0.epochs=3", "override 'train.0.epochs=3': no 'train.0.epochs' in r.yaml"),
        ("sed=3", "r.yaml: line 1: unknown key 'sed'; did you mean 'seed'?"),
        (
            "tests.steps.DropLong.limt=3",
            "r.yaml: line 6: unknown key 'limt'; did you mean 'limit'?",
        ),
        (
            "tests.steps.DropLong#3.limit=3",
            "override 'tests.steps.DropLong#3.limit=3': no 'tests.steps.DropLong#3.limit' in "
            "r.yaml; did you mean 'tests.steps.DropLong#2'?",
        ),
        ("version=2026.1", "r.yaml: line 1: 'version': Input should be a valid string"),
    ],
)
def test_bad_overrides(problems, word, problem):
    (found,) = problems(GOOD, word)
    assert found == problem


def test_an_override_of_a_document_that_is_wrong_elsewhere(problems):
    found = problems("name: x\nsource: a\nsteps: [null, 3, [a]]\n", "tests.steps.Coin.rate=1")
    assert any("expected 'name: {fields}', found None" in line for line in found)


# -- names -----


def test_find_step_reads_lazy_packages():
    assert find_step("filters.Length").__name__ == "Length"
    assert find_step("tests.steps.DropLong") is DropLong


def test_nearest():
    assert nearest("treshold", ["threshold", "x"]) == "; did you mean 'threshold'?"
    assert nearest("zzz", ["threshold"]) == ""


def test_null_leaves_a_step_out(read):
    found = read(GOOD, "tests.steps.DropLong=null", "tests.steps.Length=null", "dpo=null")
    assert [p.label for p in found.steps] == ["tests.steps.DropLong", "tests.steps.Coin"]
    assert limits(found) == [10]
    assert found.train == ()
    assert "Length" not in found.to_yaml()
    assert [p.line for p in found.steps] == [8, 9]
