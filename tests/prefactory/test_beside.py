import importlib
import sys
import textwrap

import polars as pl
import pytest

from prefactory.beside import beside, import_function, import_module
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.recipe import load
from tests.helpers import SECTIONS

STEP = """\
import polars as pl
from prefactory import Filter, verdict
import words
from words import LIMIT as FIRST

class Mine(Filter):
    def keep(self, table, ctx):
        from words.more import TELL
        return verdict(table, (pl.lit(True), TELL, pl.lit(f"{words.LIMIT}{FIRST}")))
"""


@pytest.fixture
def folders(tmp_path):
    """Two folders with a module, and a package that it imports, of the same names."""

    def make(name, limit):
        folder = tmp_path / name
        (folder / "words").mkdir(parents=True)
        (folder / "my_steps.py").write_text(STEP)
        (folder / "words" / "__init__.py").write_text(f"LIMIT = {limit}\n")
        (folder / "words" / "more.py").write_text(f"from . import LIMIT\nTELL = 't{limit}'\n")
        (folder / "r.yaml").write_text("name: x\nsource: a\nsteps: [my_steps.Mine]\n")
        return folder

    return make("a", 1), make("b", 2)


def step_of(folder):
    return load(folder / "r.yaml", [], SECTIONS).steps[0].step


def reasons(step):
    return step.keep(pl.DataFrame({"x": [0]}), Context()).row(0)


def test_two_recipes_with_modules_of_one_name_do_not_mix_up(folders):
    path, modules = sys.path.copy(), set(sys.modules)
    one, two = map(step_of, folders)
    assert reasons(one) == ("t1", "11")
    assert reasons(two) == ("t2", "22")
    assert reasons(one) == ("t1", "11")
    assert sys.path == path
    assert not {"my_steps", "words"} & (set(sys.modules) - modules)


def test_the_identity_of_a_step_beside_a_recipe_is_its_name_and_its_bytes(folders):
    one, two = map(step_of, folders)
    assert one.identity()["step"] == "my_steps.Mine"
    assert one.identity() == two.identity()  # the same bytes in two folders
    path = folders[0] / "my_steps.py"
    path.write_text(STEP.replace("pl.lit(True)", "pl.lit(False)"))
    assert one.identity() == two.identity()  # what was executed, not what lies there now
    edited = step_of(folders[0])
    assert edited.identity() != one.identity()
    assert reasons(edited) == (None, None)
    assert reasons(one) == ("t1", "11")


def test_ours_and_the_standard_library_come_before_what_lies_beside(tmp_path):
    for name in ("filters", "json", "cards"):
        (tmp_path / f"{name}.py").write_text("MINE = 1\n")
    with beside(tmp_path):
        found = [hasattr(import_module(name), "MINE") for name in ("filters", "json", "cards")]
    assert found == [False, False, True]


def test_a_missing_neighbour_is_said_by_its_own_name(tmp_path):
    (tmp_path / "p.py").write_text("import q_not_there\n")
    text = "name: x\nsource: a\nsteps: [p.A, p.sub.B]\n"
    (tmp_path / "r.yaml").write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "r.yaml", [], SECTIONS)
    assert "no module 'q_not_there' for the step 'p.A'" in error.value.problems[0]
    assert "_beside" not in str(error.value)


def test_a_function_beside_a_recipe_is_found_when_it_is_called(folders):
    step = "filters.Toxicity: {function: words.score, threshold: 0.5}"
    text = f"name: x\nsource: a\nsteps:\n  - {step}\n"
    steps = []
    for folder, worth in zip(folders, (0.25, 0.75), strict=True):
        (folder / "words" / "__init__.py").write_text(f"def score(texts): return [{worth}]\n")
        (folder / "r.yaml").write_text(text)
        steps.append(step_of(folder))
    found = [import_function(s.function, "function")(["x"]) for s in steps]
    assert found == [[0.25], [0.75]]
    one, two = (step.identity() for step in steps)
    assert one["fields"] == two["fields"]
    assert one["fields"]["function"] == "words.score"
    assert one["function_source"] != two["function_source"]


def test_a_module_that_the_program_has_imported_itself_stays_one(folders, monkeypatch):
    for folder in folders:
        (folder / "own_module.py").write_text(f"FOLDER = {folder.name!r}\n")
    monkeypatch.syspath_prepend(folders[0])
    own = importlib.import_module("own_module")
    found = []
    for folder in folders:
        with beside(folder):
            found.append(import_module("own_module"))
    del sys.modules["own_module"]
    assert found[0] is own
    assert found[1].FOLDER == "b"
