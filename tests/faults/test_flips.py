"""A flipped bit in what a home keeps: the right content, or a sentence that says what to do."""

import json
import os
import re
import shutil
from dataclasses import replace

import polars as pl
import pytest

from audit.loading import load
from catalog.history import retire, state
from catalog.history.diff import diff
from catalog.history.everything import problems
from catalog.history.tags import tag, untag
from catalog.layouts import export
from catalog.versions import Catalog
from pipelines.conduct import cluster
from pipelines.journal import answers
from pipelines.needs import needs, tell
from pipelines.settings import Settings
from pipelines.training import promotion
from pipelines.training.known import known
from prefactory.engines import batch
from prefactory.engines.journal import Journal
from prefactory.errors import ConfigError, PrefactoryError
from prefactory.folders import checksums_of, new_file, new_folder
from prefactory.identity import fingerprint
from prefactory.sharing import spending
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.sealed import seal
from prefactory.sharing.spending import Spent
from prefactory.store import Store
from review import people
from review.annotations import annotations_of
from review.assignments import next_assignment, open_rows
from review.settings import Settings as Asked
from review.store import create, open_review
from review.votes import Answer, decide, vote
from tests.buckets import URL, served
from tests.faults.test_catalog import published
from tests.faults.trials import Tried, flip, seeded, turned
from tests.review.conftest import some_pairs
from trainers.base import DatasetRef

CURES = ("put a copy", "remove", "delete", "makes one", "sqlite3", "catalog verify")
"""Each sentence has what to do."""


def told(what, tried, said):
    Tried(f"flipped bits, {what}", tried, said).say()


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


def a_checkpoint(folder):
    from trainers import checkpoints  # which loads transformers

    whole = folder / "checkpoint-2"
    whole.mkdir(parents=True)
    (whole / "model.safetensors").write_bytes(b"weights")
    (whole / checkpoints.WHOLE).write_text(checksums_of(whole / checkpoints.WHOLE))
    checkpoints.opened(folder, "f" * 32)
    return folder / checkpoints.RUN, lambda: checkpoints.opened(folder, "f" * 32)


def a_part_of_a_checkpoint(folder):
    _, read = a_checkpoint(folder)
    spare = folder.with_name("spare")
    shutil.copytree(folder / "checkpoint-2", spare)
    file = spare / "model.safetensors"

    def again():
        shutil.copytree(spare, folder / "checkpoint-2", dirs_exist_ok=True)
        return read()

    return file, again


def an_engine(folder):
    """It only names the model, which is called by the engine's key then."""
    identity = {"engine": "server", "model": "m", "template": None}
    journal = Journal(folder / "journal", fingerprint(identity), identity)
    journal.put("a" * 32, {"text": "yes"})
    journal.close()
    file = next(folder.rglob("engine.json"))
    return file, lambda: answers(Settings(folder)).drop("model").rows()


def a_proof(folder):
    file, _ = cluster.proof_of(folder)
    return file, lambda: len(cluster.proof_of(folder)[1])


KEPT = {
    "history.json": a_history, "a budget": a_budget, "a batch": a_batch,
    "promoted.json": promotions, "record.json": an_object, "training.json": a_training,
    "engine.json": an_engine, "home.id": a_proof, "a checkpoint": a_checkpoint,
    "a part of a checkpoint": a_part_of_a_checkpoint,
}  # fmt: skip


MADE_ANEW = ("record.json", "a part of a checkpoint")


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
            assert found == calm or (found is None and what in MADE_ANEW), (bit, found)
        except PrefactoryError as error:
            text = str(error)
            said += 1
            if file.name not in text or not any(cure in text.lower() for cure in CURES):
                pytest.fail(text)
    told(f"small records: {what}", len(bits), said)


@pytest.mark.slow
def test_flipped_bits_of_tokenised_rows(tmp_path):
    """They are made again."""
    import datasets

    from trainers.once import _kept

    rows = {"input_ids": [[1, 2, 3], [4, 5]], "labels": [[1, 0], [1]]}
    made = []

    def read():
        return _kept(
            tmp_path / "tokens", lambda: made.append(1) or datasets.Dataset.from_dict(rows)
        )[:]

    assert read() == rows
    tried = 0
    for name in sorted(p.name for p in (tmp_path / "tokens").iterdir()):
        for seed in range(6):
            flip(tmp_path / "tokens" / name, seeded(f"{name} {seed}"))
            assert read() == rows, (name, seed)
            tried += 1
    told("tokenised rows", tried, 0)
    assert len(made) >= tried


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


# -- a bucket --------------------------------------------------------------------------------------


def shape(key):
    """What a key of a bucket is of: its place and name, without digests and numbers."""
    place, _, name = key.partition("/")
    last = name.rpartition("/")[2]
    by_name = not re.fullmatch(r"[0-9a-f]{16,}|[0-9-]+|\d.*\.json", last)
    return f"{place}/{last if by_name else '*'}"


def named(key):
    """How a sentence may name what a key of a bucket is of: it, its folder, or the object."""
    return key, key.rpartition("/")[0], *re.findall(r"parts/(\w+)/", key)


def cured(told, key, settings):
    """Do what a sentence says."""
    bucket, catalog = Bucket(settings.bucket), settings.catalog
    if version := re.search(r"catalog rm (\S+?@\S+?)`", told):
        untag(catalog, "asked", "good")  # which `rm` asks for
        retire.remove(catalog, retire.removable(catalog, version[1]))
        return
    assert re.search(r"[Dd]elete|remove it", told), told
    for one in {key, *re.findall(r"objects/\S+?/record\.json", told)}:
        bucket.delete(one)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_flipped_bits_of_a_bucket(lab, tmp_path):
    """Another machine has the right rows, or is told what to do; once that is done, it has them."""
    tried = said = 0
    with served("moto", tmp_path) as env:
        os.environ.update(env)
        url = f"{URL}/flips"
        far = {"bucket": url, "env": env}
        first, _ = lab.run("first", **far)
        assert (first["rc"], first["digest"]) == (0, lab.calm["digest"])
        settings = Settings(lab.folder / "first", bucket=url, catalog_bucket=url)
        tag(settings.catalog, f"asked@{first['version']}", "good")
        tell(settings)
        bucket = Bucket(url)
        kinds = {}
        for key in sorted(bucket.list("")):
            kinds.setdefault(shape(key), []).append(key)
        whole = {key: bucket.read(key)[0] for keys in kinds.values() for key in keys}
        for kind, keys in kinds.items():
            key = seeded(kind).choice(keys)
            bucket.upload(turned(whole[key], seeded(kind)), key)
            other, asked = lab.run("other", **far)
            if other["rc"] != 0:
                assert other["rc"] == 2, (key, other)
                assert any(k in other["error"] for k in named(key)), (key, other)
                cured(other["error"], key, replace(settings, home=lab.folder / "other"))
                lab.remove("other")
                other, asked = lab.run("other", **far)
                said += 1
            assert (other["rc"], other.get("digest")) == (0, lab.calm["digest"]), (key, other)
            assert len(asked) <= (lab.answers if kind.startswith("journal") else 0), (key, asked)
            lab.remove("other")
            tried += 1
            for one in set(bucket.list("")) - whole.keys():
                bucket.delete(one)
            for one, data in whole.items():
                bucket.upload(data, one)
        lab.remove("first")
    told("a bucket", tried, said)
    assert tried >= 10
