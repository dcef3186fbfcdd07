"""Identities of the shipped recipes: they stay, or it is written down why one moved.

A fingerprint that moves makes users compute again. If yours did on purpose, write down why in
`changed` of `fingerprints.json`, and `python -m tests.test_fingerprints` writes the new ones.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from pipelines.build import load_recipe
from prefactory.errors import MissingPackageError
from prefactory.identity import fingerprint

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("fingerprints.json")


def fingerprints():
    """Recipe -> its fingerprint without sources, and those of its steps by label.

    A model in a file is identified by the file: a recipe whose model is not installed is None.
    """
    found = {}
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = load_recipe(path, [])
        try:
            steps = {placed.label: placed.step.fingerprint() for placed in recipe.steps}
            found[path.name] = {"recipe": fingerprint(recipe.payload([])), "steps": steps}
        except MissingPackageError as error:
            warnings.warn(f"{path.name} is not checked: {error}", stacklevel=1)
            found[path.name] = None
    return found


def test_recipes_and_their_steps_keep_their_fingerprints():
    known = json.loads(FILE.read_text())["now"]
    found = fingerprints()
    assert set(found) == set(known)
    assert {k: v for k, v in found.items() if v} == {k: known[k] for k, v in found.items() if v}


def test_what_moved_since_the_first_has_a_reason():
    known = json.loads(FILE.read_text())
    moved = {
        label.partition("#")[0]
        for name, recipe in known["first"].items()
        for label, digest in recipe["steps"].items()
        if known["now"][name]["steps"].get(label, digest) != digest  # not one that was taken out
    }
    assert moved == set(known["changed"])
    for name, recipe in known["first"].items():
        same_steps = recipe["steps"] == known["now"][name]["steps"]
        assert (recipe["recipe"] == known["now"][name]["recipe"]) == same_steps, name


if __name__ == "__main__":
    before = json.loads(FILE.read_text())
    now = {name: new or before["now"].get(name) for name, new in fingerprints().items()}
    whole = {**before, "now": now}
    FILE.write_text(json.dumps(whole, indent=1) + "\n")
