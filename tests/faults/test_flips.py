"""A flipped bit in what a home keeps: the right content, or a sentence that says what to do."""

import json
import shutil
from dataclasses import replace

import polars as pl
import pytest

from audit.loading import load
from catalog.history import state
from catalog.history.diff import diff
from catalog.history.everything import problems
from catalog.layouts import export
from catalog.versions import Catalog
from pipelines.needs import needs
from pipelines.settings import Settings
from pipelines.training import promotion
from pipelines.training.known import known
from prefactory.engines import batch
from prefactory.errors import ConfigError, PrefactoryError
from prefactory.folders import new_file, new_folder
from prefactory.sharing import spending
from prefactory.sharing.sealed import seal
from prefactory.sharing.spending import Spent
from prefactory.store import Store
from review import people
from review.annotations import annotations_of
from review.assignments import next_assignment, open_rows
from review.settings import Settings as Asked
from review.store import create, open_review
from review.votes import Answer, decide, vote
from tests.faults.test_catalog import published
from tests.faults.trials import flip, seeded
from tests.review.conftest import some_pairs
from trainers.base import DatasetRef

CURES = ("put a copy", "remove", "delete", "makes one", "sqlite3", "catalog verify")
"""Each sentence has what to do."""


def told(what, tried, said):
    print(f"\nflipped bits in {what}: {tried} points tried, {said} told, 0 differing")  # noqa: T201


# -- reviews ---------------------------------------------------------------------------------------


def reviewed(home):
    """A review with votes, a comment each, and a decision."""
    made = create(home, "r", some_pairs(8), Asked(people=2), {"name": "test", "path": "x"})
    for name, choice in (("Ada", "first"), ("Bob", "second")):
        who = people.by_token(made, people.invite(made, name, "annotator"))
        while (held := next_assignment(made, who, made.settings)) is not None:
            answer = Answer(choice, 2, {"comment": f"as {name} sees it"})
            vote(made, who, held["id"], answer, nonce=f"{name}{held['id']}", guideline=0)
    judge = people.by_token(made, people.invite(made, "Cleo", "adjudicator"))
    with made.db.read() as work:
        task = work.value("select min(id) from task")
    decide(made, judge, task, Answer("tie"), seen=0, first_shown=True, nonce="n", guideline=0)
    made.db.close()
    return home / "reviews" / "r"


def read(home):
    """All that is made of a review."""
    made = open_review(home, "r")
    try:
        return annotations_of(made).rows(), open_rows(made)
    finally:
        made.db.close()


@pytest.mark.parametrize("points", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_review(tmp_path, points):
    folder = reviewed(tmp_path / "calm")
    calm, said = read(tmp_path / "calm"), []
    rng = seeded("review")
    for _ in range(points):
        shutil.copytree(folder.parents[1], tmp_path / "flipped")
        flip(tmp_path / "flipped/reviews/r/review.sqlite", rng)
        try:
            assert read(tmp_path / "flipped")[0] == calm[0]
        except PrefactoryError as error:
            said.append(str(error))
        shutil.rmtree(tmp_path / "flipped")
    told("a review", points, len(said))
    assert len(said) >= points // 10
    assert all(any(word in text for word in CURES) for text in said), said


# -- small records --------------------------------------------------------------------------------


def a_history(folder):
    state.change(folder, "d", lambda now: replace(now, tags={"good": "1"}, removed=("2", "3")))
    shutil.copytree(folder / "d", folder / "spare")

    def read():
        shutil.copy(folder / "spare" / state.COPY, folder / "d" / state.COPY)
        return state.read(folder / "d")

    return folder / "d" / state.FILE, read


def a_budget(folder):
    purse = spending.Spending(folder / "b.budget", lasting=True)
    purse.change(lambda others: (True, Spent(120, 0.25)))
    purse.close()
    return folder / "b.budget", lambda: spending.read(folder / "b.budget")


def a_batch(folder):
    folder.mkdir(parents=True)
    file = folder / "t.json"
    batch._Record("t", ["a1", "b2"], "/v1/chat", "file-1", "batch-1", file=file).save()
    return file, lambda: batch._Record.read(file, None)


def promotions(folder):
    settings = Settings(folder)
    file = promotion._file(settings)
    with new_file(file) as out:
        out.write(seal({"d": {"model": "m", "over": None, "accuracy": 0.75}}, indent=2))
    return file, lambda: promotion.promoted(settings)


def an_object(folder):
    store = Store(folder)
    with store.write("ab" * 16) as writer:
        writer.table("rows", pl.DataFrame({"x": [1, 2]}))
        writer.info.update(reasons={"short": 3}, threshold=0.5)
    file = next(folder.rglob("record.json"))
    return file, lambda: Store(folder).open("ab" * 16)


def a_training(folder):
    file = folder / "training.json"
    with new_folder(folder, ConfigError) as new:
        facts = {"dataset": {"name": "d", "version": "1", "content_digest": "0" * 32}}
        (new / file.name).write_text(json.dumps({"method": "dpo", "config": {}, **facts}))
    home = folder.parents[1]
    return file, lambda: (needs(home), known(Settings(home)))


KEPT = {
    "history.json": a_history, "a budget": a_budget, "a batch": a_batch,
    "promoted.json": promotions, "record.json": an_object, "training.json": a_training,
}  # fmt: skip


@pytest.mark.parametrize("every", [37, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", KEPT)
def test_every_bit_of_a_record(tmp_path, what, every):
    """Each is turned: the record is read as it was, or counts as absent, or is told by its name."""
    file, read = KEPT[what](tmp_path / "models" / "m")
    calm, whole, said = read(), file.read_bytes(), 0
    bits = range(0, 8 * len(whole), every)
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        try:
            found = read()
            assert found == calm or (found is None and what == "record.json"), (bit, found)
        except PrefactoryError as error:
            text = str(error)
            said += 1
            if file.name not in text or not any(cure in text.lower() for cure in CURES):
                pytest.fail(text)
    told(what, len(bits), said)


# -- versions, as they are read --------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A home with two versions of `kept`, the second of which has drifted."""
    folder = tmp_path_factory.mktemp("versions")
    for number in (1, 2):
        published(folder, folder / "home", "kept", number)
    return folder / "home"


def exported(version, out):
    export(version, "trl", out, "jsonl")
    found = {p.name: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    shutil.rmtree(out)
    return found


def readers(home):
    """What people and trainers make of a version, by name."""
    catalog = Catalog(home)
    out = home.parent / "out"
    return {
        "manifest": lambda: catalog.get("kept@2").manifest,
        "rows": lambda: DatasetRef(catalog.get("kept@2")).pairs("train")["chosen"][:],
        "frame": lambda: catalog.get("kept@2").frame().collect().rows(),
        "ledger": lambda: catalog.get("kept@2").ledger().rows(),
        "cost": lambda: catalog.get("kept@2").cost(),
        "export": lambda: exported(catalog.get("kept@2"), out),
        "diff": lambda: repr(diff(catalog.get("kept@1"), catalog.get("kept@2"))),
        "audit": lambda: load(catalog.get("kept@2"), catalog).table.rows(),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flipped_bits_of_what_is_read_of_a_version(versions):
    """Nobody reads what was not published: it is told which file is damaged, and what to do."""
    home, tried, said = versions, 0, 0
    calm = {name: read() for name, read in readers(home).items()}
    files = sorted(p for p in (home / "versions/kept/2").rglob("*") if p.is_file())
    for path in files:
        whole, rng = path.read_bytes(), seeded(path.name)
        flip(path, rng)
        for name, read in readers(home).items():
            tried += 1
            try:
                assert read() == calm[name], (path, name)
            except PrefactoryError as error:
                said += 1
                if "is damaged" not in str(error) or not any(c in str(error) for c in CURES):
                    pytest.fail(str(error))
        found = [what for what, wrong in problems(Catalog(home), Store(home / "store")) if wrong]
        assert found == ["kept@2"], (path, found)
        path.write_bytes(whole)
    told("what is read of a version", tried, said)
    assert said >= len(files)
