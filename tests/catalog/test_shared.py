"""A catalog in a bucket: two machines with a home each, on moto and on SeaweedFS over loopback."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from catalog.history import exchange
from catalog.history.tags import rollback, tag, untag
from catalog.versions import Catalog, open_folder, verify
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.errors import CatalogError, StoreError
from prefactory.sharing.bucket import Bucket
from prefactory.stages import thread_mapper
from tests.buckets import PROGRAMS, served_at_url
from tests.faults.trials import flip, seeded
from tests.pipelines.conftest import command, hh_pairs, write_jsonl

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
RECIPE = """\
name: small
seed: 3
source: {path: pairs.jsonl, name: small, license: mit}
steps:
  - filters.Length: {min_words: 2}
"""


KINDS = [pytest.param(k, marks=() if k == "moto" else pytest.mark.slow) for k in sorted(PROGRAMS)]


@pytest.fixture(scope="module", params=KINDS)
def bucket_url(request, tmp_path_factory):
    """A real server over loopback, with an empty bucket."""
    with served_at_url(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


class Machine:
    """A home of its own, and the bucket that all share."""

    def __init__(self, home, url):
        self.home, self.settings = home, Settings(home, catalog_bucket=url)
        home.mkdir(parents=True)

    @property
    def catalog(self):
        return self.settings.catalog

    def publish(self, rows, version=None):
        write_jsonl(self.home / "pairs.jsonl", hh_pairs(rows))
        text = RECIPE if version is None else RECIPE + f"version: {version}\n"
        (self.home / "recipe.yaml").write_text(text)
        recipe, sources, _ = check_recipe(self.home / "recipe.yaml", [])
        return build(recipe, sources, self.settings, thread_mapper(1)).published

    def local(self):
        return [v.manifest.version for v in Catalog(self.home).versions("small")]


@pytest.fixture
def machines(bucket_url, tmp_path):
    url = f"{bucket_url}/{tmp_path.name}"
    return [Machine(tmp_path / name, url) for name in ("one", "two")]


def test_what_one_publishes_the_other_reads(machines):
    one, two = machines
    made = one.publish(20)
    assert made.new
    assert two.catalog.names() == ["small"]
    assert two.local() == []
    found = two.catalog.get("small")
    assert found.manifest == made.version.manifest
    assert found.path.is_relative_to(two.home)
    assert verify(found) == []
    assert found.frame().collect().equals(made.version.frame().collect())
    assert two.catalog.get(found.ref).path == found.path


def test_numbers_go_on_and_the_same_content_is_one_version(machines):
    one, two = machines
    first = one.publish(20).version
    again = two.publish(20)
    assert not again.new
    assert again.version.ref == first.ref
    second = two.publish(24)
    assert second.new
    assert one.catalog.numbers("small") == [first.manifest.version, second.version.manifest.version]
    assert one.catalog.get("small").ref == second.version.ref
    told = json.loads((second.version.path / "provenance.json").read_text())
    assert told["parent"] == first.ref  # which was made on the other machine
    assert (second.version.path / "drift.json").is_file()
    third = one.publish(26).version
    assert [v.rpartition(".")[2] for v in two.catalog.numbers("small")][1:] == ["1", "2"]
    assert two.catalog.newest("small") == third.manifest.version


def test_publishers_at_once_make_one_version_or_one_each(machines, bucket_url, tmp_path):
    same = [Machine(tmp_path / f"s{i}", machines[0].catalog.bucket_url) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda m: m.publish(20), same))
    assert sorted(p.new for p in made) == [False, False, True]
    assert len({p.version.ref for p in made}) == 1
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda m, n: m.publish(n), same, (22, 24, 26)))
    assert len({p.version.ref for p in made}) == 3
    assert len(machines[1].catalog.numbers("small")) == 4


def test_a_version_of_the_recipe_is_never_another(machines):
    one, two = machines
    one.publish(20, "v1")
    assert not two.publish(20, "v1").new
    with pytest.raises(CatalogError, match="small@v1 exists"):
        two.publish(24, "v1")


def test_who_dies_before_the_record_has_published_nothing(machines, monkeypatch):
    one, two = machines
    create = Bucket.create
    monkeypatch.setattr(
        Bucket, "create",
        lambda self, key, data: 1 / 0 if key.startswith("records/") else create(self, key, data),
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        one.publish(20)
    monkeypatch.undo()
    assert two.catalog.names() == []
    assert one.local() == []
    assert two.publish(20).new
    assert not one.publish(20).new


def test_who_dies_after_the_record_finds_it(machines, monkeypatch):
    one, two = machines
    from catalog import publish

    monkeypatch.setattr(publish, "settle", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.publish(20)
    monkeypatch.undo()
    assert one.local() == []
    assert two.catalog.get("small").manifest.content_digest
    assert not one.publish(20).new
    assert len(one.local()) == 1


def test_what_was_published_before_the_bucket_goes_into_it(machines):
    one, two = machines
    shared, one.settings = one.settings, Settings(one.home)
    made = one.publish(20).version
    one.settings = shared
    assert one.catalog.get("small").ref == made.ref
    assert two.catalog.names() == []
    assert not one.publish(20).new
    assert two.catalog.get("small").manifest == made.manifest


def test_two_homes_with_another_version_of_one_number(machines):
    one, two = machines
    shared, two.settings = two.settings, Settings(two.home)
    two.publish(24, "v1")
    two.settings = shared
    one.publish(20, "v1")
    with pytest.raises(CatalogError, match="another small@v1 already"):
        two.catalog.get("small@v1")
    with pytest.raises(CatalogError, match="another small@v1"):
        two.publish(24, "v1")


def test_tags_and_rollback_are_shared(machines):
    one, two = machines
    first = one.publish(20).version
    second = one.publish(24).version
    tag(one.catalog, first.ref, "good")
    assert two.catalog.get("small@good").ref == first.ref
    assert two.catalog.tags(first) == ["good"]
    rollback(two.catalog, "small@good")
    assert one.catalog.get("small").ref == first.ref
    rollback(one.catalog, second.ref)
    assert two.catalog.get("small").ref == second.ref
    assert untag(two.catalog, "small", "good") == first.manifest.version
    with pytest.raises(CatalogError, match="has no version 'good' in s3://"):
        one.catalog.get("small@good")


def test_tags_that_come_at_once_are_all_kept(machines):
    one, two = machines
    ref = one.publish(20).version.ref
    two.catalog.get(ref)
    work = [threading.Thread(target=tag, args=(m.catalog, ref, f"{m.home.name}{i}"))
            for m in machines for i in range(3)]  # fmt: skip
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(one.catalog.kept("small").tags) == 6


@pytest.mark.parametrize("damage", ["manifest", "file", "record"])
def test_a_damaged_version_of_the_bucket_is_said(machines, damage):
    one, two = machines
    version = one.publish(20).version
    bucket = one.catalog.bucket
    (record,) = bucket.list("records/small/")
    record = record[record.index("records/") :]
    at = json.loads(bucket.read(record)[0])["at"]
    key = {"manifest": f"{at}/manifest.json", "file": f"{at}/ledger.parquet", "record": record}
    data, etag = bucket.read(key[damage])
    assert bucket.replace_if(key[damage], data[: len(data) // 2], etag)
    with pytest.raises(CatalogError, match=r"damaged|does not match"):
        two.catalog.get("small")
    assert two.local() == []
    assert one.catalog.bucket.exists(key[damage])
    assert Catalog(one.home).get(version.ref).manifest == version.manifest


def files_of(version):
    """Files of a version that its manifest speaks for, and the manifest."""
    return ["manifest.json", *version.manifest.files]


@pytest.mark.parametrize(
    "each", [pytest.param(13, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_a_damaged_copy_is_brought_anew(machines, caplog, each):
    """It blocks neither the name nor a publication, and nothing is published beside it."""
    one, two = machines
    whole = one.publish(20).version
    two.publish(20)
    copy = two.home / "versions" / "small" / whole.manifest.version
    for name in files_of(whole)[::each]:
        flip(copy / name, seeded(name))
        caplog.clear()
        if name == "manifest.json":
            assert two.catalog.get("small").manifest == whole.manifest
        else:
            assert not two.publish(20).new, name
        assert "is damaged" in caplog.text
        assert verify(open_folder(copy)) == [], name
    assert one.catalog.numbers("small") == [whole.manifest.version]


def test_a_damaged_version_is_pulled_anew(tmp_path, machines):
    one, two = machines
    whole = one.publish(20).version
    base = exchange.push(whole, str(tmp_path / "away"))
    here = Catalog(two.home)
    found = exchange.pull(here, base)
    for name in ("manifest.json", "ledger.parquet"):
        flip(found.path / name, seeded(name))
        assert problems_of(found.path)
        assert verify(exchange.pull(here, base)) == []
    assert [p.name for p in here.root.iterdir()] == ["small"]


def problems_of(path):
    try:
        return verify(open_folder(path))
    except CatalogError as error:
        return [str(error)]


def test_a_record_that_leads_elsewhere_is_damaged(machines):
    one, two = machines
    one.publish(20)
    bucket = one.catalog.bucket
    number = one.catalog.newest("small")
    key = f"records/small/{number}.json"
    data, etag = bucket.read(key)
    facts = json.loads(data) | {"at": "versions/../../../etc"}
    assert bucket.replace_if(key, json.dumps(facts).encode(), etag)
    with pytest.raises(CatalogError, match="is damaged"):
        two.catalog.get("small")


def test_pushed_and_pulled_by_fsspec(machines, bucket_url, tmp_path):
    """`catalog push s3://...`, without a catalog there."""
    one, two = machines
    one.settings, two.settings = Settings(one.home), Settings(two.home)
    version = one.publish(20).version
    base = exchange.push(version, f"{bucket_url}/{tmp_path.name}/pushed")
    back = exchange.pull(Catalog(two.home), base)
    assert back.manifest == version.manifest
    assert exchange.push(version, f"{bucket_url}/{tmp_path.name}/pushed") == base
    with pytest.raises(CatalogError, match="is no version"):
        exchange.pull(Catalog(two.home), f"{base}x")
    assert verify(back) == []


@pytest.mark.slow
def test_the_command_line(machines):
    one, two = machines
    url = one.catalog.bucket_url
    made = one.publish(20).version

    def ask(*words, **more):
        return command(*words, cwd=two.home, PREFACTORY_HOME=str(two.home), **more)

    listed = ask("catalog", "list", PREFACTORY_CATALOG=url)
    assert made.manifest.version in listed.stdout
    assert f"only in {url}: {made.ref}" in listed.stdout
    shown = ask("catalog", "show", "small", PREFACTORY_CATALOG=url)
    assert shown.returncode == 0, shown.stderr
    assert two.local() == [made.manifest.version]
    assert "only in" not in ask("catalog", "list", PREFACTORY_CATALOG=url).stdout
    (two.home / "models" / "m").mkdir(parents=True)
    about = {"dataset": {"name": "small", "version": made.manifest.version}}
    (two.home / "models" / "m" / "training.json").write_text(json.dumps(about))
    refused = ask("catalog", "rm", made.ref, "--yes", PREFACTORY_CATALOG=url)
    assert refused.returncode == 2
    assert "stays: model m of " in refused.stderr
    shutil.rmtree(two.home / "models")
    would = ask("catalog", "rm", made.ref, PREFACTORY_CATALOG=url)
    assert "would be removed (--yes does it) in s3://" in would.stdout
    assert ask("catalog", "rm", made.ref, "--yes", PREFACTORY_CATALOG=url).returncode == 0
    gone = ask("catalog", "show", made.ref, PREFACTORY_CATALOG=url)
    assert "was removed from s3://" in gone.stderr
    write_jsonl(two.home / "pairs.jsonl", hh_pairs(24))
    (two.home / "recipe.yaml").write_text(RECIPE)
    ran = ask("run", "recipe.yaml", "--runner", "threads", "--catalog", url)
    assert ran.returncode == 0, ran.stderr
    assert len(one.catalog.numbers("small")) == 1


def test_no_bucket_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_MAX_RETRIES", "0")
    with pytest.raises(StoreError) as error:
        Settings(tmp_path, catalog_bucket="s3://prefactory").catalog.get("small")
    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)
