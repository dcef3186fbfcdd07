"""PAL as a reward model: planted groups are found, newcomers placed, files are whole."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from prefactory.errors import ConfigError, DataError
from trainers import PAL, DatasetRef, PALReward, train_pal
from trainers.evaluate.models import scored

SMALL = {"steps": 200, "starts": 2, "dim": 16}


def opinions(make, n, people, seed=0):
    """Pairs of people of two groups: the even like the polite answer, the odd the other."""
    rng = np.random.default_rng(seed)
    pairs = make.polite_pairs(n, seed=seed)
    who = pl.Series("annotator", [f"u{people[i]:02d}" for i in rng.integers(len(people), size=n)])
    odd = who.str.slice(1).cast(pl.Int64) % 2 == 1
    sides = [(f"chosen{x}", f"rejected{x}") for x in ("", "_id")]
    both = [*sides, *((b, a) for a, b in sides)]
    turned = [pl.when(odd).then(b).otherwise(a).alias(a) for a, b in both]
    return pairs.with_columns(who).with_columns(turned)


@pytest.fixture
def train(tmp_path, make):
    def trained(name, table, held=None, **options):
        folder = make.publish(tmp_path / f"v-{name}", table, held, name=name)
        config = PAL(**{**({} if "base" in options else SMALL), **options})
        return train_pal(config, DatasetRef.from_path(folder), tmp_path / name, make.hash_embed)

    return trained


PEOPLE = list(range(12))


def test_two_prototypes_find_two_groups_and_one_does_not(train, make):
    tables = opinions(make, 240, PEOPLE), opinions(make, 80, PEOPLE, seed=1)
    one = train("one", *tables, prototypes=1)
    two = train("two", *tables)
    assert one.test.accuracy < 0.7
    assert two.test.accuracy > 0.95
    assert two.facts["accuracy_mean_person"] < 0.7
    people = pl.read_parquet(two.folder / "users.parquet")
    odd = people["user"].str.slice(1).cast(pl.Int64) % 2
    assert (people["group"] == odd).all() or (people["group"] != odd).all()
    assert people["labels"].sum() == 240 == two.facts["labels"]
    assert two.facts["users"] == 12
    assert two.facts["mass_0"] >= two.facts["mass_1"]
    assert two.facts["new_5"] > two.facts["new_mean_5"] + 0.2, "people whom the fit has not seen"
    assert two.facts["held_back_users"] == 2
    assert "new_100" not in two.facts, "nobody has so many labels"


def test_a_saved_model_scores_like_the_trained_one_and_places_newcomers(train, make):
    table, held = opinions(make, 200, PEOPLE[:10]), opinions(make, 60, PEOPLE[:10], seed=1)
    report = train("first", table, held, new_users=0.0)
    model = PALReward.load(report.folder, make.hash_embed)
    users = held["annotator"].to_list()
    good, bad = (model.score(held["prompt"], held[s], users) for s in ("chosen", "rejected"))
    assert (good > bad).mean() == report.test.accuracy
    assert (good <= 0).all()
    own = scored(str(report.folder), held, make.hash_embed, 4, 64)
    assert own.how == "reward of who gave each label"
    assert np.array_equal(own.margins, good - bad)
    mean = scored(str(report.folder), held.drop("annotator"), make.hash_embed, 4, 64)
    assert mean.how == "reward of the mean person"
    nobody = model.score(held["prompt"], held["chosen"])
    assert np.array_equal(nobody, model.score(held["prompt"], held["chosen"], ["?"] * 60))
    nulls = pl.Series([None], dtype=held.schema["prompt"])
    assert np.isnan(model.score(nulls, held["chosen"][:1])).all()
    new = opinions(make, 16, [10, 11], seed=3)
    more = train("more", new, base=report.folder)
    assert more.facts["new_users"] == 2
    grown = PALReward.load(more.folder, make.hash_embed)
    assert np.array_equal(grown.fit.prototypes, model.fit.prototypes)
    assert np.array_equal(grown.weights(["u03"]), grown.weights(["u03"]))
    before = dict(zip(model.fit.users, model.fit.logits, strict=True))
    after = dict(zip(grown.fit.users, grown.fit.logits, strict=True))
    assert all(np.array_equal(after[u], before[u]) for u in before)
    group = dict(grown.people().select("user", "group").iter_rows())
    assert group["u10"] == group["u00"] != group["u11"] == group["u01"]


def by_the_question(make, n, people, seed=0):
    """Even people like the polite answer to a formal question, the rude one else; odd, turned."""
    rng = np.random.default_rng(seed)
    rows, who = [], rng.integers(len(people), size=n)
    for i in range(n):
        formal = rng.random() < 0.5
        kind = "formal official" if formal else "casual chatty"
        sides = [
            f"certainly please thing{rng.integers(99)}",
            f"whatever go thing{rng.integers(99)}",
        ]
        polite = formal == (people[who[i]] % 2 == 0)
        rows.append((f"{kind} q{i + 1000 * seed}", *(sides if polite else sides[::-1])))
    return make.pairs_of(rows).with_columns(annotator=pl.Series([f"u{people[w]:02d}" for w in who]))


@pytest.mark.slow
def test_a_taste_that_moves_with_the_question_needs_method_b(train, make):
    table, held = (by_the_question(make, n, PEOPLE, s) for n, s in ((300, 0), (100, 1)))
    fixed = train("fixed", table, held, linear=True)
    moves = train("moves", table, held, method="b", rank=6)
    assert fixed.test.accuracy < 0.62
    assert moves.test.accuracy > 0.9
    assert moves.facts["accuracy_mean_person"] < 0.7
    assert moves.facts["new_5"] > moves.facts["new_mean_5"] + 0.2, (
        "people whom the fit has not seen"
    )
    people = pl.read_parquet(moves.folder / "users.parquet")
    odd = people["user"].str.slice(1).cast(pl.Int64) % 2
    assert (people["group"] == odd).all() or (people["group"] != odd).all()
    assert "move with the prompt" in (moves.folder / "README.md").read_text()
    model = PALReward.load(moves.folder, make.hash_embed)
    users = held["annotator"].to_list()
    good, bad = (model.score(held["prompt"], held[s], users) for s in ("chosen", "rejected"))
    assert (good > bad).mean() == moves.test.accuracy
    found = scored(str(moves.folder), held, make.hash_embed, 4, 64)
    assert np.array_equal(found.margins, good - bad)
    alone = model.score(held["prompt"][:1], held["chosen"][:1], users[:1])
    assert np.array_equal(alone, good[:1]), "whatever is scored beside it"
    more = train("later", by_the_question(make, 24, [20, 21], 3), base=moves.folder)
    grown = PALReward.load(more.folder, make.hash_embed)
    assert (grown.method, more.config["method"]) == ("b", "b")
    assert np.array_equal(grown.fit.heads, model.fit.heads)
    group = dict(grown.people().select("user", "group").iter_rows())
    assert group["u20"] == group["u00"] != group["u21"] == group["u01"]
    again = train("again", table.reverse(), held, method="b", rank=6)
    for name in ("model.safetensors", "users.parquet", "config.json"):
        assert (moves.folder / name).read_bytes() == (again.folder / name).read_bytes()


def test_a_model_has_the_same_bytes_in_any_order_of_the_rows(train, make):
    table = opinions(make, 80, PEOPLE[:4])
    one = train("a", table, new_users=0.0)
    two = train("b", table.reverse(), new_users=0.0)
    for name in ("model.safetensors", "users.parquet", "config.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_several_people_may_have_labelled_a_pair(train, make):
    table = opinions(make, 60, PEOPLE[:4])
    lists = table.with_columns(annotator=pl.concat_list("annotator", pl.lit("u20")))
    report = train("lists", lists, new_users=0.0)
    assert report.facts["labels"] == 120
    assert report.facts["users"] == 5
    some = table.with_columns(annotator=pl.when(pl.int_range(pl.len()) > 9).then("annotator"))
    assert train("some", some, new_users=0.0).dropped["no annotator"] == 10


def test_what_pal_can_not_do_is_said(train, make, tmp_path):
    with pytest.raises(DataError, match="pal reads the column annotator, which none@1 lacks"):
        train("none", make.polite_pairs(4))
    nobody = make.polite_pairs(4).with_columns(annotator=pl.lit(None, pl.String))
    with pytest.raises(DataError, match="no training pair of null@1 has an annotator"):
        train("null", nobody)
    with pytest.raises(ConfigError, match="holds no PAL model"):
        train("base", opinions(make, 8, [0, 1]), base=tmp_path)
    with pytest.raises(ValidationError, match="dim is the model's that base names"):
        PAL(base=tmp_path, dim=4)
    for wrong, says in (
        ({"method": "b", "linear": True}, "linear is for method a"),
        ({"rank": 4}, "rank is for method b"),
        ({"base": tmp_path, "method": "b"}, "method is the model's that base names"),
    ):
        with pytest.raises(ValidationError, match=says):
            PAL(**wrong)
