"""Removing versions from a bucket: never one that a machine needs, whole or not at all."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from catalog.history import leftovers, retire
from catalog.history.shared import BucketCatalog
from catalog.history.tags import rollback, tag, untag
from catalog.versions import Catalog, verify
from pipelines.build import build, check_recipe
from pipelines.needs import tell
from pipelines.settings import Settings
from prefactory.errors import CatalogError
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.objects import BucketStore
from prefactory.sharing.presence import alone
from prefactory.stages import thread_mapper
from tests.pipelines.conftest import hh_pairs, write_jsonl

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
RECIPE = """\
name: %s
seed: 3
source: {path: %s, name: small, license: mit}
steps:
  - filters.Length: {min_words: 2}
publish: {pays: false}
"""


class Home(Settings):
    """A machine's home, with a catalog in a bucket in memory."""

    def __init__(self, home, bucket):
        super().__init__(home, bucket=None, catalog_bucket=None)
        object.__setattr__(self, "_there", bucket)
        object.__setattr__(self, "_objects", None)

    @property
    def catalog(self):
        return BucketCatalog(self.home, self._there)

    @property
    def store(self):
        return super().store if self._objects is None else BucketStore(
            self.home / "store", bucket=self._objects
        )  # fmt: skip

    def publish(self, rows=20, name="small", source=None, more="", store=None):
        object.__setattr__(self, "_objects", store)
        self.home.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.home / "pairs.jsonl", hh_pairs(rows))
        text = RECIPE % (name, source or "pairs.jsonl") + more
        (self.home / "recipe.yaml").write_text(text)
        recipe, sources, _ = check_recipe(self.home / "recipe.yaml", [])
        return build(recipe, sources, self, thread_mapper(1)).published

    def rm(self, ref):
        tell(self)
        retire.remove(self.catalog, retire.removable(self.catalog, ref))


@pytest.fixture
def bucket():
    return Bucket("memory:///")


@pytest.fixture
def machines(bucket, tmp_path):
    return [Home(tmp_path / name, bucket) for name in ("one", "two")]


def model(home, ref):
    folder = home.home / "models" / "m"
    folder.mkdir(parents=True)
    name, number = ref.split("@")
    about = {"dataset": {"name": name, "version": number}}
    (folder / "training.json").write_text(json.dumps(about))
    return folder


def test_what_is_removed_is_gone_for_all_and_its_number_too(machines, bucket):
    one, two = machines
    first, second = one.publish(20).version, one.publish(22).version
    assert two.catalog.get(second.ref).path.is_dir()
    would = retire.removable(one.catalog, second.ref)
    assert would.why == ()
    assert would.size > 1000
    assert one.catalog.newest("small") == second.manifest.version  # that was a dry run
    one.rm(second.ref)
    assert not second.path.exists()
    assert [k for k in bucket.list("") if second.manifest.version + "/" in k] == []
    for home in machines:
        assert home.catalog.get("small").ref == first.ref
        assert home.catalog.numbers("small") == [first.manifest.version]
        assert [v.ref for v in home.catalog.versions("small") if v.ref != first.ref] == []
        with pytest.raises(CatalogError, match="was removed from memory:///"):
            home.catalog.get(second.ref)
        with pytest.raises(CatalogError, match="was removed"):
            tag(home.catalog, second.ref, "good")
    again = two.publish(22)  # the same content: another number, and its own copy has gone
    assert again.new
    assert again.version.manifest.version not in (
        first.manifest.version, second.manifest.version,
    )  # fmt: skip
    assert not (two.home / "versions" / "small" / second.manifest.version).exists()
    assert verify(one.catalog.get("small")) == []


def test_what_is_needed_stays(machines):
    one, two = machines
    first, second, third = (one.publish(n).version for n in (20, 22, 24))
    tag(two.catalog, first.ref, "good")
    two.publish(name="child", source=second.path / "pairs" / "train")
    folder = model(two, third.ref)
    tell(two)
    for version, why in (
        (first, "the tag good"),
        (second, "child@.* was made from it"),
        (third, r"model m of .*:.*/two, as told on 20\d\d.* \(homes/"),
    ):
        with pytest.raises(CatalogError, match=f"{version.ref} stays: {why}"):
            one.rm(version.ref)
    rollback(two.catalog, second.ref)
    with pytest.raises(CatalogError, match="it is the head since a rollback"):
        one.rm(second.ref)
    assert len(one.catalog.numbers("small")) == 3
    untag(one.catalog, "small", "good")
    one.rm(first.ref)
    shutil.rmtree(folder)
    with pytest.raises(CatalogError, match="model m"):
        one.rm(third.ref)
    two.rm(third.ref)  # which tells anew what it needs
    assert one.catalog.numbers("small") == [second.manifest.version]
    for wrong in ("small", "small@", "small@..", "small@nothing", "no@1", "../x@1"):
        with pytest.raises(CatalogError):
            one.rm(wrong)


@pytest.mark.parametrize(
    "damage", [lambda m: b"{", lambda m: m.replace(b'"sha256": "', b'"sha256": "0')]
)
def test_what_a_damaged_version_may_need_stays(machines, bucket, damage):
    """Until that is removed: nobody knows what it was made from."""
    one, two = machines
    first = one.publish(20).version
    child = two.publish(name="child", source=first.path / "pairs" / "train").version
    (key,) = (k for k in bucket.list("") if "/child/" in k and k.endswith("manifest.json"))
    bucket.upload(damage(bucket.read(key)[0]), key)
    with pytest.raises(
        CatalogError, match=f"what {child.ref} was made from is unknown.* rm child@"
    ):
        one.rm(first.ref)
    two.rm(child.ref)
    one.rm(first.ref)
    assert one.catalog.numbers("small") == []


def test_a_training_that_begins_meanwhile_finds_it_removed_or_keeps_it(machines, monkeypatch):
    one, two = machines
    ref = one.publish().version.ref
    two.catalog.get(ref)
    keep = BucketCatalog.keep

    def slow(self, name, changed):
        monkeypatch.undo()
        tell(two, ref, "model m")  # after it was looked who needs the version
        return keep(self, name, changed)

    monkeypatch.setattr(BucketCatalog, "keep", slow)
    with pytest.raises(CatalogError, match="stays: model m of"):
        one.rm(ref)
    assert one.catalog.get("small").ref == ref
    assert one.catalog.kept("small").removed == ()
    tell(two)
    one.rm(ref)
    with pytest.raises(CatalogError, match=f"{ref} was removed"):
        tell(two, ref, "model m")


def test_who_gives_it_a_name_meanwhile_keeps_it(machines, monkeypatch):
    one, two = machines
    ref = one.publish().version.ref
    goes = retire.removable(one.catalog, ref)
    tag(two.catalog, ref, "good")
    with pytest.raises(CatalogError, match="it has got a name meanwhile"):
        retire.remove(one.catalog, goes)
    assert one.catalog.get("small@good").ref == ref


class Stopped(BaseException):
    """As a kill: nothing catches it."""


def test_killed_at_every_request_it_is_whole_or_removed(machines, bucket, tmp_path, monkeypatch):
    """And the same command ends it; names never lead to nothing."""
    first, second = (machines[0].publish(n).version for n in (20, 22))
    tag(machines[0].catalog, first.ref, "good")
    objects = {key: bucket.read(key)[0] for key in bucket.list("")}
    for stops in range(40):
        copy = Bucket("memory:///")
        for key, data in objects.items():
            copy.upload(data, key)
        ended = removed_but_for(copy, stops, second.ref, tmp_path / f"h{stops}", monkeypatch)
        for key in list(copy.list("claims")):  # as after a minute of silence
            copy.delete(key)
        other = Home(tmp_path / f"other{stops}", copy)
        assert other.catalog.get("small@good").ref == first.ref
        found = other.catalog.get("small")
        assert found.manifest == (second if found.ref == second.ref else first).manifest
        assert verify(found) == []
        if ended:
            break
        if other.catalog.left("small", second.manifest.version):  # else it was all but told
            other.rm(second.ref)
        assert [k for k in copy.list("versions") if f"/{second.manifest.version}/" in k] == []
        assert other.catalog.numbers("small") == [first.manifest.version]
    assert 8 < stops < 39


def removed_but_for(bucket, stops, ref, home, monkeypatch):
    """Remove a version, and end at the writing request of that number; whether it came to none."""
    count = iter(range(100))
    with monkeypatch.context() as patched:
        for verb in ("create", "replace_if", "delete", "upload"):
            real = getattr(Bucket, verb)

            def counted(self, *words, real=real):
                if next(count) == stops:
                    raise Stopped
                return real(self, *words)

            patched.setattr(Bucket, verb, counted)
        try:
            Home(home, bucket).rm(ref)
        except Stopped:
            return False
        return True


def test_many_that_remove_and_tag_at_once(machines):
    """Of each version the tag or the removal wins, never both."""
    one, two = machines
    made = [one.publish(20 + 2 * i).version for i in range(4)]
    two.catalog.get(made[0].ref)

    def tries(work, *words):
        try:
            work(*words)
        except CatalogError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        removed = [pool.submit(tries, one.rm, v.ref) for v in made]
        tagged = [pool.submit(tries, tag, two.catalog, v.ref, f"t{i}") for i, v in enumerate(made)]
        won = [(r.result(), t.result()) for r, t in zip(removed, tagged, strict=True)]
    assert all(r != t for r, t in won), won
    kept = one.catalog.kept("small")
    assert set(kept.tags.values()).isdisjoint(kept.removed)
    assert set(one.catalog.numbers("small")) == set(kept.tags.values())


def test_a_removed_number_is_not_published_again(machines):
    one, _ = machines
    ref = one.publish(20, more="version: v1\n").version.ref
    one.rm(ref)
    with pytest.raises(CatalogError, match="a number is not used again"):
        one.publish(24, more="version: v1\n")
    assert Catalog(one.home).versions("small") == []


def test_results_that_no_version_was_made_from_go(machines, bucket):
    one, two = machines
    first, second = one.publish(20, store=bucket).version, two.publish(22, store=bucket).version
    objects = {k.split("/")[2] for k in bucket.list("objects")}
    bucket.upload(b"x", "parts/dead/1/rows.arrow")  # of who died before its record
    bucket.upload(b"x", "images/kept.png")
    assert leftovers.garbage(bucket, one.catalog, 1.0) == []  # too young
    found = leftovers.garbage(bucket, one.catalog, -1.0)
    assert {g.name for g in found} == {"dead"} | (objects - needed(one, first, second))
    one.rm(second.ref)
    found = leftovers.garbage(bucket, one.catalog, -1.0)
    only_second = needed(one, second) - needed(one, first)
    assert only_second
    assert {g.name for g in found} == {"dead"} | (objects - needed(one, first))
    with alone(bucket):
        assert leftovers.collect(bucket, found) == sum(g.size for g in found) > 1000
    assert {k.split("/")[2] for k in bucket.list("objects")} == objects & needed(one, first)
    assert {k.split("/")[1] for k in bucket.list("parts")} == objects & needed(one, first)
    assert bucket.exists("images/kept.png")
    assert not one.publish(20, store=bucket).new
    assert two.publish(22, store=bucket).new  # made again


def needed(home, *versions):
    named = set()
    for version in versions:
        path = home.catalog.root / "small" / version.manifest.version
        if not path.is_dir():
            path = version.path
        named |= set(json.loads((path / "provenance.json").read_text())["objects"])
    return named


def test_a_version_of_which_nobody_can_tell_stops_it(machines, bucket):
    one, _ = machines
    one.publish(20, store=bucket)
    (key,) = (k for k in bucket.list("versions") if k.endswith("provenance.json"))
    bucket.upload(b"{}", key)
    with pytest.raises(CatalogError, match=r"nobody can tell what small@.* was made from"):
        leftovers.garbage(bucket, one.catalog, -1.0)


def test_a_home_that_cannot_be_read_stops_removal(machines, bucket):
    one, _ = machines
    ref = one.publish().version.ref
    bucket.upload(b"{", "homes/abc.json")
    with pytest.raises(CatalogError, match="what a home needs is unknown"):
        one.rm(ref)
