"""Kills and failing file systems while a catalog is changed."""

import json

import pytest

from catalog.history import state
from catalog.history.everything import problems
from catalog.history.exchange import push
from catalog.history.tags import tag
from catalog.versions import Catalog
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
from prefactory.store import Store
from tests.faults.driver import VERBS
from tests.faults.trials import Counts, Lab

RECIPE = """\
name: %s
version: "%d"
seed: 3
source: {path: pairs.jsonl, name: small, license: mit}
steps:
  - filters.Length: {min_words: 1}
publish: {pays: false}
"""


def published(folder, home, name, number):
    rows = [
        {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(9 + number)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "recipe.yaml").write_text(RECIPE % (name, number))
    recipe, sources, _ = check_recipe(folder / "recipe.yaml", [])
    return build(recipe, sources, Settings(home), thread_mapper(1)).published.version


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with three versions of `kept`, the first of which has a tag, and `far` elsewhere."""
    folder = tmp_path_factory.mktemp("template")
    home = folder / "home"
    for number in (1, 2, 3):
        published(folder, home, "kept", number)
    tag(Catalog(home), "kept@1", "good")
    push(published(folder, folder / "other", "far", 1), str(home / "there"))
    return home


def tried(tmp_path, driver, template, verb, faults):
    """After a fault the catalog is whole and as before or after; the verb again completes it."""
    lab = Lab(tmp_path, driver, {"verb": verb}, template=template)
    counts = Counts(lab, f"catalog {verb}")
    lab.begin()
    done = state.read(tmp_path / "calm" / "versions" / "kept")
    for at in lab.moments(min(lab.calm["changes"], MOST)):
        for fault in faults:
            met, _ = lab.run("met", {**fault, "at": at})
            assert met["rc"] in ({-9, 0} if fault["kind"] == "kill" else {0, 2, 3}), (at, met)
            looked = problems(Catalog(tmp_path / "met"), Store(tmp_path / "met" / "store"))
            wrong = [(name, found) for name, found in looked if found]
            assert not wrong, (at, wrong)
            again, _ = lab.run("met")  # which refuses where it was done already
            assert again["rc"] in (0, 2), (at, fault, again)
            assert state.read(tmp_path / "met" / "versions" / "kept") == done, (at, fault, again)
            counts.compare("met", {**fault, "at": at})
            lab.remove("met")
    return counts.show()


MOST = 20
"""Moments of a verb that are tried: `gc` makes a change for each object."""
KILL = {"kind": "kill"}
FAULTS = (KILL, {"kind": "EIO"}, {"kind": "ENOSPC", "lasting": True})


def test_kills_of_a_tag(tmp_path, driver, template):
    assert tried(tmp_path, driver, template, "tag", (KILL,)) >= 5


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("verb", VERBS)
def test_every_fault_of_every_verb(tmp_path, driver, template, verb):
    assert tried(tmp_path, driver, template, verb, FAULTS) >= 10
