import pytest
from pydantic import ValidationError

from catalog.publish import publish
from catalog.versions import Catalog
from filters import AgainstVersions
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from tests.helpers import one_file, pairs, prompts, recipe, responses, run, view

RIVER = "the river runs slowly past the old mill and then turns south to meet the grey sea again"
MOON = "a pale moon rose over the quiet harbour while two boats came home with empty nets at last"
STONE = "stone walls keep the heat of every summer day and give it back to us during cold nights"
LOOSE = {"short": 4, "long": 16}


def changed(text, *places):
    words = text.split()
    for at in places:
        words[at] = f"new{at}"
    return " ".join(words)


def published(folder, table, version="v1", name="old"):
    made = recipe({"filters.Length": {}}, name=name, version=version)
    result = run(made, one_file(table), folder / f"store-{name}-{version}")
    return publish(result, Catalog(root=folder / "versions")).version


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    return tmp_path


def judged(step, table):
    state = step.fit(step.fit_shard(table, Context()).sort("unit"), Context())
    return step.keep(table, Context(state=state))


def test_prompts_that_were_published_leave_with_their_answers(home):
    version = published(home, responses((RIVER, "a"), (MOON, "b")))
    table = responses((RIVER + "!", "x"), (RIVER + "!", "y"), (STONE, "z"), (changed(MOON, 3), "w"))
    step = AgainstVersions(versions=("old@v1",), **LOOSE)
    found = judged(step, table)
    assert found["reason"].to_list() == ["published", "published", None, "published"]
    ids = {
        row["prompt"][0]["content"]: row["prompt_id"]
        for split in ("train", "test")
        for batch in version.batches("responses", split)
        for row in batch.to_dicts()
    }
    assert found["detail"][0] == f"old@v1 {ids[RIVER]}, Jaccard 1.0"
    assert found["detail"][3] == f"old@v1 {ids[MOON]}, Jaccard 0.789"


def test_a_threshold_of_one_drops_only_the_same_text(home):
    published(home, responses((RIVER, "a"), (MOON, "b")))
    table = responses((RIVER.upper(), "x"), (changed(MOON, 3), "w"))
    step = AgainstVersions(versions=("old@v1",), threshold=1.0)
    assert judged(step, table)["reason"].to_list() == ["published", None]


def test_all_copies_of_a_text_leave(home):
    published(home, responses((changed(RIVER, 3), "a")))
    table = responses((RIVER, "x"), (RIVER.upper(), "y"), (RIVER + ".", "z"))
    step = AgainstVersions(versions=("old@v1",), **LOOSE)
    assert judged(step, table)["reason"].to_list() == ["published"] * 3


def test_answers_and_rows(home):
    published(home, responses((RIVER, MOON)))
    table = responses((RIVER, MOON), (STONE, changed(MOON, 4)), (RIVER, STONE))
    on = {
        name: judged(AgainstVersions(versions=("old@v1",), on=name, **LOOSE), table)["reason"]
        for name in ("prompt", "response", "row")
    }
    assert on["prompt"].is_null().to_list() == [False, True, False]
    assert on["response"].is_null().to_list() == [False, False, True]
    assert on["row"].is_null().to_list() == [False, True, True]


def test_a_pair_leaves_if_either_answer_was_published(home, tmp_path):
    published(home, responses((RIVER, MOON)))
    table = pairs((STONE, changed(MOON, 4), "no, never"), (STONE, "yes, always", "not at all"))
    fields = {"versions": ["old@v1"], "on": "response", **LOOSE}
    result = run(recipe({"filters.AgainstVersions": fields}), one_file(table), tmp_path / "s")
    assert view(result, "pairs").height == 1
    assert result.stages[-1].reasons == {"published": 1}


def test_another_content_is_another_step_and_another_folder_is_not(home, tmp_path):
    published(home, responses((RIVER, "a")))
    step = AgainstVersions(versions=("old@v1",))
    first = step.fingerprint()
    other = tmp_path / "elsewhere"
    published(other, responses((MOON, "a")))
    elsewhere = AgainstVersions(versions=("old@v1",), catalog=other / "versions")
    assert elsewhere.fingerprint() != first
    same = AgainstVersions(versions=("old@v1",), catalog=home / "versions")
    assert same.fingerprint() == first
    digest = Catalog(root=home / "versions").get("old@v1").manifest.content_digest
    assert step.identity()["fields"]["versions"] == {"old@v1": digest}


def test_two_versions_and_the_nearest_is_named(home):
    published(home, responses((changed(RIVER, 3), "a")), "v1")
    published(home, responses((RIVER, "a")), "v2")
    step = AgainstVersions(versions=("old@v1", "old@v2"), **LOOSE)
    assert judged(step, responses((RIVER, "b")))["detail"][0].startswith("old@v2 ")


def test_prompts_without_answers(home):
    published(home, responses((RIVER, "a")))
    step = AgainstVersions(versions=("old@v1",))
    assert judged(step, prompts(RIVER, MOON))["reason"].to_list() == ["published", None]
    assert judged(step, prompts())["reason"].to_list() == []


@pytest.mark.parametrize("ref", ["old", "old@", "@v1", "a/b@c"])
def test_a_version_is_named_exactly(ref):
    with pytest.raises(ValidationError, match="name@version"):
        AgainstVersions(versions=(ref,))


def test_wrong_use_is_found_before_the_run(home):
    with pytest.raises(ConfigError, match="versions: no dataset 'old'"):
        AgainstVersions(versions=("old@v1",)).needs(Shape.RESPONSES)
    published(home, responses((RIVER, "a")))
    with pytest.raises(ConfigError, match="has no version 'v2'; it has: v1"):
        AgainstVersions(versions=("old@v2",)).needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match="prompts have none"):
        AgainstVersions(versions=("old@v1",), on="row").needs(Shape.PROMPTS)
