"""What differs between two versions, and which step of the recipe did it."""

import polars as pl
import pytest

from catalog.history.diff import ROWS, diff, recipe_changes, write_rows
from catalog.versions import Catalog
from pipelines.build import build, check_recipe
from pipelines.settings import Settings
from prefactory.errors import ConfigError
from prefactory.stages import thread_mapper
from tests.pipelines.conftest import hh_pairs, write_jsonl

RECIPE = """\
name: %s
seed: 3
source: {path: %s, layout: hh, name: small, license: mit}
steps:
  - filters.Length: {min_words: %d}
  - labelers.R3: {objectives: [length]}
  - labelers.Combine: {name: reward, method: linear, weights: {length: %s}}
  - labelers.Margin: {objective: reward}
publish: {test_fraction: 0.2}
"""


def publish(home, name, rows, min_words=2, weight=1):
    write_jsonl(home / "pairs.jsonl", rows)
    path = home / f"{name}.yaml"
    path.write_text(RECIPE % (name, "pairs.jsonl", min_words, weight))
    recipe, sources, _ = check_recipe(path, [])
    return build(recipe, sources, Settings(home), thread_mapper(1)).published.version


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """`old`, and `new` with a pair more, three less, two turned, a filter and a weight changed."""
    home = tmp_path_factory.mktemp("home")
    rows = hh_pairs(41)
    publish(home, "old", rows[:40])
    turned = [{"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows[:2]]
    publish(home, "new", [*turned, *rows[2:37], rows[40]], min_words=5, weight=2)
    publish(home, "again", rows[:40])
    return Catalog(home)


def test_rows_are_added_removed_turned_and_rescored(versions):
    found = diff(versions["old"], versions["new"])
    (table,) = [t for t in found.tables if t.name == "pairs"]
    before, after = (versions[n].frame("pairs").collect() for n in ("old", "new"))
    assert not found.same_content
    ids = {change: set(table.rows.filter(change=change)["row_id"]) for change in table.counts}
    common = set(before["pair_id"]) & set(after["pair_id"])
    assert ids["added"] | {*ids["relabelled"]} == set(after["pair_id"]) - common
    assert len(ids["relabelled"]) == 2
    assert ids["removed"] <= set(before["pair_id"]) - common
    assert ids["rescored"] == common  # the weight is another
    assert table.same == 0
    assert (
        0 < table.columns["margin"] <= table.columns["chosen_score_reward"]
    )  # a margin of 0 stays
    turned = table.rows.filter(change="relabelled")
    sides = before.select("pair_id", "chosen_id", "rejected_id")
    for new_id, old_id in turned.select("row_id", "old_id").rows():
        (old,) = sides.filter(pair_id=old_id).drop("pair_id").rows()
        (new,) = after.filter(pair_id=new_id).select("rejected_id", "chosen_id").rows()
        assert old == new


def test_what_the_other_version_dropped_is_named(versions):
    (table,) = diff(versions["old"], versions["new"]).tables[:1]
    gone = table.rows.filter(pl.col("step") == "filters.Length")
    assert gone.height > 0
    assert set(gone["change"]) == {"removed"}
    reasons = versions["new"].ledger().filter(step="filters.Length")
    assert set(gone["row_id"]) <= set(reasons["row_id"])


def test_a_turned_row_with_its_scores_turned_differs_in_nothing_else(versions):
    """The margin and the scores of the sides are those of the other side."""
    old, new = versions["old"], versions["again"]
    found = diff(old, new)
    assert found.same_content
    assert all(not t.counts and not t.columns for t in found.tables)
    assert [t.same for t in found.tables] == [sum(t.splits.values()) for _, t in sorted(
        old.manifest.tables.items())]  # fmt: skip
    assert "the same rows" in found.lines()[0]


def test_the_recipe_and_the_step_that_did_it(versions):
    found = diff(versions["old"], versions["new"])
    text = "\n".join(found.lines())
    assert "step filters.Length: fields.min_words: 2 -> 5" in text
    assert "step labelers.Combine: fields.weights.length: 1.0 -> 2.0" in text
    assert found.causes["margin"] == "labelers.Margin"
    assert found.causes["chosen_score_reward"] == "labelers.Combine"
    assert "source " in text
    assert len(found.to_dict(most=1)["tables"][0]["rows"]) == 1


def test_steps_that_come_go_and_change_places():
    step = lambda label, **more: {"label": label, **more}  # noqa: E731
    old = {"seed": 1, "sources": [], "steps": [step("a"), step("b"), step("c", x=1)]}
    new = {"seed": 2, "sources": [], "steps": [step("c", x=2), step("a"), step("d")]}
    assert recipe_changes(old, new) == [
        "seed: 1 -> 2",
        "step b: only in the old recipe",
        "step d: only in the new recipe",
        "step c: x: 1 -> 2",
        "order of the steps: a, c -> c, a",
    ]


def test_files_of_a_source_are_named():
    files = lambda **f: [{"name": n, "sha256": s} for n, s in f.items()]  # noqa: E731
    of = lambda f: {"sources": [{"name": "s", "files": f, "layout": "hh"}], "steps": []}  # noqa: E731
    old, new = of(files(a="1", b="1", c="1")), of(files(b="2", c="1", d="1", e="1"))
    assert recipe_changes(old, new) == [
        "source s: new files: d, e",
        "source s: files that are gone: a",
        "source s: files with other content: b",
    ]
    many = of(files(**{f"f{i:04}": "1" for i in range(1000)}))
    (told,) = recipe_changes(of([]), many)
    assert told.startswith("source s: new files: f0000, f0001")
    assert told.endswith("f0007 and 992 more")


def test_a_table_that_one_version_lacks_is_all_new(versions, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": f"Question {i}?"} for i in range(3)])
    (tmp_path / "r.yaml").write_text("name: asked\nsource: {path: p.jsonl}\nsteps: []\n")
    recipe, sources, _ = check_recipe(tmp_path / "r.yaml", [])
    asked = build(recipe, sources, Settings(tmp_path), thread_mapper(1)).published.version
    by_name = {t.name: t for t in diff(asked, versions["old"]).tables}
    assert by_name["prompts"].counts == {"removed": 3}
    assert set(by_name["pairs"].counts) == {"added"}


def test_every_difference_as_a_file(versions, tmp_path):
    found = diff(versions["old"], versions["new"])
    for ending in ("parquet", "csv", "jsonl"):
        n = write_rows(found, tmp_path / f"rows.{ending}")
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert rows.height == n == sum(sum(t.counts.values()) for t in found.tables)
    assert pl.read_csv(tmp_path / "rows.csv").height == n
    assert rows.columns == ["table", *ROWS]
    with pytest.raises(ConfigError, match=r"\.parquet"):
        write_rows(found, tmp_path / "rows.xlsx")
