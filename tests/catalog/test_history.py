"""Tags, rollback, removal, exchange, lineage and `verify` of everything."""

import json
import os
import shutil
import time

import polars as pl
import pytest

from catalog.history import exchange, lineage, removal, state, tags
from catalog.history.everything import problems
from catalog.history.tags import rollback, tag, untag
from catalog.versions import Catalog, open_folder, verify
from pipelines.build import build, check_recipe
from pipelines.needs import needs
from pipelines.settings import Settings
from prefactory.errors import CatalogError, StoreError
from prefactory.stages import thread_mapper
from tests.pipelines.conftest import hh_pairs, write_jsonl

RECIPE = """\
name: %s
seed: 3
source: {path: %s, name: small, license: mit}
steps:
  - filters.Length: {min_words: 2}
"""


def publish(home, name, path, seed=3):
    recipe_path = home / f"{name}.yaml"
    recipe_path.write_text(RECIPE.replace("seed: 3", f"seed: {seed}") % (name, path))
    recipe, sources, _ = check_recipe(recipe_path, [])
    return build(recipe, sources, Settings(home), thread_mapper(1)).published


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with three versions of `small`, and `child`, made from the first of them."""
    home = tmp_path_factory.mktemp("home")
    for n in (20, 22, 24):
        write_jsonl(home / "pairs.jsonl", hh_pairs(n))
        version = publish(home, "small", "pairs.jsonl").version
        if n == 20:
            publish(home, "child", version.path / "pairs" / "train")
    return home


@pytest.fixture
def home(made, tmp_path):
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def numbers(home, name="small"):
    return [v.manifest.version for v in Catalog(home).versions(name)]


def test_a_tag_names_a_version_and_moves(home):
    catalog = Catalog(home)
    first, second, third = numbers(home)
    tag(catalog, f"small@{first}", "good")
    assert catalog["small@good"].manifest.version == first
    tag(catalog, f"small@{second}", "good")
    assert catalog["small@good"].manifest.version == second
    assert catalog["small"].manifest.version == third
    with pytest.raises(CatalogError, match=r"has no version 'bad'; it has: .*good"):
        catalog["small@bad"]
    for wrong in (third, "../x", "a b", ""):
        with pytest.raises(CatalogError):
            tag(catalog, "small", wrong)
    assert [catalog.tags(v) for v in catalog.versions("small")] == [[], ["good"], []]
    assert untag(catalog, "small", "good") == second
    with pytest.raises(CatalogError, match="no tag 'good'"):
        untag(catalog, "small", "good")


def test_a_rollback_holds_until_something_newer_is_published(home):
    catalog = Catalog(home)
    first, _, third = numbers(home)
    rollback(catalog, f"small@{first}")
    assert catalog["small"].manifest.version == first
    assert numbers(home)[-1] == third  # nothing went
    write_jsonl(home / "pairs.jsonl", hh_pairs(26))
    newest = publish(home, "small", "pairs.jsonl").version
    assert catalog["small"].manifest.version == newest.manifest.version
    rollback(catalog, f"small@{first}")
    rollback(catalog, newest.ref)
    assert catalog["small"].manifest.version == newest.manifest.version


def test_rm_leaves_what_is_needed_and_never_uses_a_number_again(home):
    catalog = Catalog(home)
    first, second, third = numbers(home)
    tag(catalog, f"small@{second}", "good")
    (home / "models" / "m").mkdir(parents=True)
    about = {"dataset": {"name": "small", "version": third}}
    (home / "models" / "m" / "training.json").write_text(json.dumps(about))
    for number, why in ((first, "child@.* was made from it"), (second, "tag good"), (third, "m")):
        goes = removal.removable(catalog, f"small@{number}", needs(home))
        with pytest.raises(CatalogError, match=why):
            removal.remove(catalog, goes)
    shutil.rmtree(home / "models")
    removal.remove(catalog, removal.removable(catalog, f"small@{third}", needs(home)))
    assert numbers(home) == [first, second]
    assert catalog.next_version("small") not in (first, second, third)
    assert not [p for p in catalog.root.iterdir() if p.name.startswith(".small-")]
    for wrong in ("small", "small@good", "small@..", "small@nothing", "no@1"):
        with pytest.raises(CatalogError):
            removal.removable(catalog, wrong, {})


def test_a_version_that_cannot_be_published_is_refused_before_any_work(home):
    recipe_path = home / "named.yaml"
    recipe_path.write_text(f"version: v1\n{RECIPE % ('named', 'pairs.jsonl')}")

    def run():
        recipe, sources, _ = check_recipe(recipe_path, [])
        return build(recipe, sources, Settings(home), thread_mapper(1)).published

    assert run().new
    assert not run().new
    write_jsonl(home / "pairs.jsonl", hh_pairs(26))
    objects = sorted((home / "store" / "objects").glob("*/*"))
    with pytest.raises(CatalogError, match=r"other files.*other content: pairs\.jsonl"):
        run()
    assert sorted((home / "store" / "objects").glob("*/*")) == objects
    catalog = Catalog(home)
    removal.remove(catalog, removal.removable(catalog, "named@v1", {}))
    with pytest.raises(CatalogError, match="was removed, and a number is not used again"):
        run()
    assert sorted((home / "store" / "objects").glob("*/*")) == objects
    assert catalog.versions("named") == []


def test_a_model_that_cannot_be_read_stops_removal(home):
    (home / "models" / "m").mkdir(parents=True)
    (home / "models" / "m" / "training.json").write_text("{")
    with pytest.raises(StoreError, match="what the model needs is unknown"):
        needs(home)


def test_numbers_never_go_back(home, monkeypatch):
    catalog = Catalog(home)
    root = catalog.root / "small"
    today = numbers(home)[0]
    assert numbers(home) == [today, f"{today}.1", f"{today}.2"]
    shutil.rmtree(root / f"{today}.1")  # by hand
    assert catalog.next_version("small") == f"{today}.3"
    (root / f"{today}.2" / "manifest.json").write_text("{")
    assert catalog.next_version("small") == f"{today}.3"
    (root / f"{today}.2").rename(root / "2999.01.01")  # a clock was wrong
    assert catalog.next_version("small") == "2999.01.01.1"


def test_gc_takes_what_no_version_names_and_nothing_young(home):
    settings = Settings(home)
    objects = list(settings.store.root.glob("objects/*/*"))
    for path in objects:
        os.utime(path, (time.time() - 1e6,) * 2)
    found = removal.garbage(settings.catalog, settings.store, {}, days=1)
    assert not found  # every object is of a version
    first, second, third = numbers(home)
    found = removal.garbage(settings.catalog, settings.store, {}, keep=1, days=1)
    by_name = {g.name: g for g in found}
    assert "was made from it" in by_name[f"small@{first}"].why[0]
    assert by_name[f"small@{second}"].why == ()
    assert f"small@{third}" not in by_name
    assert any(g.what == "object" for g in found)
    assert removal.garbage(settings.catalog, settings.store, {}, keep=1, days=1e3) == [
        g for g in found if g.what == "version"
    ]
    busy = pytest.raises(StoreError, match="a run is using")
    with settings.store.in_use(), busy, removal.alone(settings.catalog, settings.store):
        raise AssertionError
    with removal.alone(settings.catalog, settings.store):
        freed = removal.collect(settings.catalog, settings.store, found)
    assert freed > 0
    assert numbers(home) == [first, third]
    left = {p.name for p in settings.store.root.glob("objects/*/*")}
    assert left == {p.name for p in objects} - {g.name for g in found if g.what == "object"}
    for version in settings.catalog:
        assert verify(version) == []
    again = publish(home, "small", "pairs.jsonl")
    assert again.version.manifest.version == third
    assert not again.new


@pytest.mark.parametrize("damage", [lambda p: p.write_text("{"), lambda p: p.unlink()])
def test_a_manifest_that_cannot_be_read_stops_removal(home, damage):
    """Its objects can be made again; the versions that it was made from perhaps not."""
    settings = Settings(home)
    first, second, _ = numbers(home)
    child = Catalog(home)["child"]
    damage(child.path / "manifest.json")
    told = (
        f"nothing goes: what {child.ref} needs is unknown.*copy in its place, or remove the folder"
    )
    for keep in (None, 1):
        with pytest.raises(CatalogError, match=told):
            removal.garbage(settings.catalog, settings.store, {}, keep=keep, days=-1)
    with pytest.raises(CatalogError, match=told):
        removal.removable(settings.catalog, f"small@{first}", {})
    shutil.rmtree(child.path)
    found = removal.garbage(settings.catalog, settings.store, {}, keep=1, days=-1)
    assert {g.name for g in found if g.what == "version"} == {f"small@{first}", f"small@{second}"}
    assert any(g.what == "object" for g in found)


def test_a_version_that_is_a_link_goes_without_what_it_leads_to(home, tmp_path):
    catalog = Catalog(home)
    _, second, _ = numbers(home)
    own, elsewhere = catalog.root / "small" / second, tmp_path / "elsewhere"
    own.rename(elsewhere)
    own.symlink_to(elsewhere)
    removal.remove(catalog, removal.removable(catalog, f"small@{second}", {}))
    assert not own.is_symlink()
    assert (elsewhere / "manifest.json").is_file()


def test_a_damaged_version_can_be_removed(home):
    catalog = Catalog(home)
    _, second, _ = numbers(home)
    (catalog.root / "small" / second / "manifest.json").write_text("{")
    removal.remove(catalog, removal.removable(catalog, f"small@{second}", {}))
    assert second not in catalog.numbers("small")


def test_a_version_that_does_not_say_what_it_needs_keeps_what_is_older(home):
    settings = Settings(home)
    for version in settings.catalog:
        path = version.path / "provenance.json"
        told = json.loads(path.read_text())
        del told["objects"]
        path.write_text(json.dumps(told))
    assert not removal.garbage(settings.catalog, settings.store, {}, days=0)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_version_goes_elsewhere_and_comes_back(home, tmp_path, place):
    catalog = Catalog(home)
    to = str(tmp_path / "away") if place == "folder" else "memory://away"
    address = exchange.push(catalog["small"], to)
    assert exchange.push(catalog["small"], to) == address
    other = Catalog(tmp_path / "other")
    back = exchange.pull(other, address)
    assert verify(back) == []
    assert back.manifest == catalog["small"].manifest
    assert exchange.pull(other, address).path == back.path
    with pytest.raises(CatalogError, match="no version"):
        exchange.pull(other, f"{address}x")


def test_what_comes_damaged_does_not_come(home, tmp_path):
    catalog = Catalog(home)
    base = exchange.push(catalog["small"], str(tmp_path / "away"))
    other = Catalog(tmp_path / "other")
    ledger = tmp_path / "away" / "small" / catalog["small"].manifest.version / "ledger.parquet"
    good = ledger.read_bytes()
    ledger.write_bytes(good[:-1] + b"x")
    with pytest.raises(CatalogError, match="sha256"):
        exchange.pull(other, base)
    ledger.unlink()
    with pytest.raises(CatalogError, match="missing there"):
        exchange.pull(other, base)
    ledger.write_bytes(good)
    manifest = ledger.with_name("manifest.json")
    data = json.loads(manifest.read_text())
    data["files"]["../../../evil"] = {"bytes": 1, "sha256": "x"}
    manifest.write_text(json.dumps(data))
    with pytest.raises(CatalogError, match="outside its folder"):
        exchange.pull(other, base)
    del data["files"]["../../../evil"]
    data["files"]["ledger.parquet"] = {"bytes": 3}
    manifest.write_text(json.dumps(data))
    with pytest.raises(CatalogError, match=r"ledger.parquet has .* bytes, more than it may have"):
        exchange.pull(other, base)
    for text in ("[" * 100_000, "[]", '{"name": 1}', '{"n": ' + "9" * 5000 + "}"):
        manifest.write_text(text)
        with pytest.raises(CatalogError, match=r"the manifest of .* is damaged: ") as told:
            exchange.pull(other, base)
        assert "\n" not in str(told.value)
        with pytest.raises(CatalogError, match=r"the manifest of .* is damaged: "):
            open_folder(manifest.parent)
    manifest.write_text(json.dumps(data))
    assert not other.names()
    with pytest.raises(CatalogError, match="another small@"):
        exchange.push(catalog["small"], str(tmp_path / "away"))


def test_the_lineage_of_a_version_and_of_a_row(home):
    catalog = Catalog(home)
    first = catalog[f"small@{numbers(home)[0]}"]
    graph = lineage.of_version(first, catalog, {first.ref: ["model m"]})
    text = "\n".join(graph.lines())
    assert text.startswith("source   small: 1 file(s), licence mit")
    assert "stage    filters.Length: 20 -> 20 pairs  <- source" in text
    assert f"version  {first.ref}: " in text
    assert f"child@{numbers(home, 'child')[0]}: made from it  <- {first.ref}" in text
    assert "model    m" in text
    child = lineage.of_version(catalog["child"], catalog)
    assert child.lines()[0].startswith(f"version  {first.ref}")
    row = first.frame("pairs").head(1).collect()["pair_id"][0]
    (explained,) = first.explain(row).rows
    calls = pl.DataFrame(
        [{"step": "filters.Length", "role": "<judge>", "model": "m", "key": "0" * 32}]
    )
    own = lineage.of_row(first, explained, calls)
    assert own.lines()[0] == "record   pairs.jsonl:" + str(explained.source).partition(":")[2]
    assert any(line.startswith(f"row      pair {row}: published") for line in own.lines())
    assert "m (<judge>)" in "\n".join(own.lines())
    picture = own.svg()
    assert "<judge>" not in picture
    assert "&lt;judge&gt;" in picture
    assert picture.startswith("<svg")
    assert len(own.to_dict()["nodes"]) == len(own.nodes)


def test_everything_is_verified_and_what_is_wrong_is_named(home):
    settings = Settings(home)
    assert not any(found for _, found in problems(settings.catalog, settings.store))
    first, second, third = numbers(home)
    root = settings.catalog.root / "small"
    manifest = root / first / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"name"', '"nam@"', 1))
    (root / second / "pairs" / "more").symlink_to(root / third)
    state.change(settings.catalog.root, "small", lambda s: state.State({"gone": "1.2.3"}))
    path = next(settings.store.root.glob("objects/*/*/*.arrow"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    wrong = {
        name: found for name, found in problems(settings.catalog, Settings(home).store) if found
    }
    assert len(wrong) == 4
    assert "damaged" in wrong[f"small@{first}"][0]
    assert "pairs/more: it is a link" in wrong[f"small@{second}"]
    assert wrong["tags of small"] == ["gone names 1.2.3, which is not there"]
    assert "makes it again" in wrong[f"object {path.parent.name}"][0]


def test_white_space_behind_a_manifest_is_found(home):
    version = Catalog(home)["small"]
    path = version.path / "manifest.json"
    text = path.read_text()
    path.write_text(text + " ")
    assert verify(Catalog(home)["small"]) == ["manifest.json: its layout is not as it was written"]


def test_a_damaged_manifest_is_said_and_does_not_block_the_name(home, caplog):
    catalog = Catalog(home)
    before = numbers(home)
    for number in before:
        path = catalog.root / "small" / number / "manifest.json"
        path.write_text("{")
    with pytest.raises(CatalogError, match="no version of small can be read"):
        catalog["small"]
    with caplog.at_level("WARNING"):
        again = publish(home, "small", "pairs.jsonl")
    assert again.new
    assert again.version.manifest.version not in before
    assert "damaged" in caplog.text


def test_the_content_of_a_damaged_version_is_published_again(home, caplog):
    version = Catalog(home)["small"]
    path = next(version.path.rglob("data-*.arrow"))
    path.unlink()
    with caplog.at_level("WARNING"):
        again = publish(home, "small", "pairs.jsonl")
    assert again.new
    assert again.version.manifest.content_digest == version.manifest.content_digest
    assert f"{version.ref} is damaged" in caplog.text


def test_a_damaged_history_is_said_and_its_copy_stands_in(tmp_path, caplog):
    def changed(before):
        return state.State({**before.tags, "best": "1"}, removed=("2020.01.01",))

    wanted = state.change(tmp_path, "a", changed)
    kept, copy = (tmp_path / "a" / name for name in (state.FILE, state.COPY))
    whole = kept.read_bytes()
    for place in range(len(whole) - 1):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert state.read(tmp_path / "a") == wanted
    assert "is damaged" in caplog.text
    kept.unlink()
    assert state.read(tmp_path / "a") == wanted
    copy.write_bytes(b"{")
    with pytest.raises(CatalogError, match="remove both to go on"):
        state.read(tmp_path / "a")
    kept.write_bytes(whole)
    assert state.change(tmp_path, "a", changed) == wanted
    assert copy.read_bytes() == whole


def test_what_gets_a_name_while_it_is_looked_stays(home):
    catalog, version = Catalog(home), Catalog(home)[f"small@{numbers(home)[1]}"]
    goes = removal.removable(catalog, version.ref, {})
    tag(catalog, version.ref, "late")
    with pytest.raises(CatalogError, match="has got a name meanwhile"):
        removal.remove(catalog, goes)
    untag(catalog, "small", "late")
    removal.remove(catalog, goes)
    number = version.manifest.version
    assert state.read(catalog.root / "small").removed == (number,)
    with pytest.raises(CatalogError, match="just been removed"):  # opened before, and now tagged
        tags._still_there(state.read(catalog.root / "small"), version)
