"""A flipped bit in a file of every kind that a home has: who reads it says so, or needs it not."""

import json
import shutil

import pytest

from catalog.history.tags import tag
from catalog.versions import Catalog
from pipelines.serve.site import ROLES
from prefactory.engines.accounts import Budget
from prefactory.engines.base import Sampling
from prefactory.engines.scripted import Scripted
from prefactory.engines.session import Session
from review import people
from review.store import registry
from tests.faults.trials import Lab, flip, kinds_of_files, seeded
from tests.helpers import user
from tests.pipelines.serve.conftest import filled

UNREAD = ("token", "exported")


def yes(request):
    return "yes"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with two versions and a tag, a review, a model, a journal, a budget, readers."""
    folder = tmp_path_factory.mktemp("kinds")
    home = filled(folder).home
    tag(Catalog(home), f"talks@{Catalog(home).newest('talks')}", "best")
    tag(Catalog(home), f"talks@{Catalog(home).newest('talks')}", "good")
    with Session(home / "journal", budget=Budget(tokens=10_000, name="night")) as session:
        engine = session.engine(Scripted(function=f"{__name__}.yes"))
        engine.generate([[user(f"q{i}")] for i in range(9)], Sampling(max_tokens=9))
    token = people.invite(registry(home / "serve", "catalog"), "Olga", "owner", ROLES)
    (home / "token").write_text(token)
    facts = {"talks": {"model": "talks-reward-1", "accuracy": 0.75, "margin": 0.0}}
    (home / "models" / "promoted.json").write_text(json.dumps(facts, indent=2) + "\n")
    return home


def looked(lab, home):
    told, _ = lab.run(home)
    assert told["rc"] == 0, told
    return {what: (code, text) for what, code, text in told["looks"]}


def flips(tmp_path, driver, template, each):
    lab = Lab(tmp_path, driver, {"verb": "look"}, template=template)
    calm = looked(lab, "calm")
    assert {what: code for what, (code, _) in calm.items() if code not in (0, 200)} == {}, calm[
        "catalog models"
    ]
    lab.remove("calm")
    tried = said = 0
    all_bugs = []
    for kind, files in kinds_of_files(template).items():
        if kind.split("/")[0] in UNREAD:
            continue
        rng = seeded(kind)
        for path in rng.sample(files, min(each, len(files))):
            shutil.copytree(template, tmp_path / "met")
            flip(tmp_path / "met" / path.relative_to(template), rng)
            met = looked(lab, "met")
            bugs = {w: text for w, (code, text) in met.items() if code is None or code == 500}
            all_bugs += [f"{path.relative_to(template)}: {w}: {t}" for w, t in bugs.items()]
            tried += 1
            told = {w for w, (code, _) in met.items() if code != calm[w][0]}
            said += bool(told)
            if kind.startswith("versions") and path.name not in ("provenance.json", "drift.json"):
                assert "catalog verify" in told or path.name.startswith("history"), (path, told)
            lab.remove("met")
    assert not all_bugs, "\n\n".join(all_bugs)
    print(f"\nflipped bits, every kind of file: {tried} points tried, {said} said")  # noqa: T201
    return tried


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_flipped_bits_of_every_kind_of_file(tmp_path, driver, template):
    assert flips(tmp_path, driver, template, 3) >= 40
