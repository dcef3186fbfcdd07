import itertools
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from benchmarks.dedup import planted_recall
from filters import NearDuplicates
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.tables import shape_of, text_of
from tests.helpers import ledger_of, one_file, pairs, prompts, recipe, responses, run, view

RIVER = "the river runs slowly past the old mill and then turns south to meet the grey sea again"
MOON = "a pale moon rose over the quiet harbour while two boats came home with empty nets at last"
STONE = "stone walls keep the heat of every summer day and give it back to us during cold nights"


def changed(text, *places):
    words = text.split()
    for at in places:
        words[at] = f"new{at}"
    return " ".join(words)


def fitted(step, table, cuts=()):
    edges = [0, *sorted(cuts), table.height]
    shards = [table[a:b] for a, b in itertools.pairwise(edges)]
    parts = pl.concat(step.fit_shard(s, Context()) for s in shards)
    return Context(state=step.fit(parts.sort(parts.columns[0]), Context()))


def judged(step, table):
    """(reason, place of the kept row) of each row."""
    answer = step.keep(table, fitted(step, table))
    assert answer.schema == {"reason": pl.String, "detail": pl.String}
    ids = table[step.unit(shape_of(table))].to_list()
    kept = answer["detail"].str.extract(r"^kept (\w+)").to_list()
    places = [None if k is None else ids.index(k) for k in kept]
    return list(zip(answer["reason"].to_list(), places, strict=True))


STAYS = (None, None)
LOOSE = {"short": 4, "long": 16}


def scored(*rows):
    """Rows are (prompt, response, score)."""
    return responses(*[r[:2] for r in rows], score_help=[float(r[2]) for r in rows])


def test_a_fifth_of_the_words_changed():
    table = scored(
        ("q", RIVER, 1), ("q", changed(RIVER, 3, 9, 14), 2), ("q", MOON, 0), ("q", STONE, 0)
    )
    step = NearDuplicates(keep_best="help", **LOOSE)
    assert judged(step, table) == [("near_duplicate", 1), STAYS, STAYS, STAYS]


def test_short_texts_are_near_only_if_they_are_the_same():
    table = scored(
        ("q", "The capital is Paris.", 1),
        ("q", "The capital is Rome.", 2),
        ("q", "the capital is paris", 3),
    )
    step = NearDuplicates(keep_best="help")
    assert judged(step, table) == [("near_duplicate", 2), STAYS, STAYS]


def test_the_detail_names_the_kept_row_and_the_index():
    table = scored(("q", RIVER, 1), ("q", changed(RIVER, 3), 2))
    step = NearDuplicates(keep_best="help", **LOOSE)
    kept = table["response_id"][1]
    answer = step.keep(table, fitted(step, table))
    assert answer["detail"].to_list() == [f"kept {kept}, Jaccard 0.789", None]


def test_a_chain_names_the_row_in_between():
    far = changed(RIVER, 3, 9, 14)
    table = scored(("q", RIVER, 2), ("q", far, 1), ("q", changed(far, 0, 6, 11), 0))
    cluster = NearDuplicates(keep_best="help", **LOOSE)
    assert judged(cluster, table) == [STAYS, ("near_duplicate", 0), ("near_duplicate", 0)]
    detail = cluster.keep(table, fitted(cluster, table))["detail"][2]
    assert f" by way of {table['response_id'][1]}, Jaccard " in detail
    kept = NearDuplicates(keep_best="help", linkage="kept", **LOOSE)
    assert judged(kept, table) == [STAYS, ("near_duplicate", 0), STAYS]


def test_rows_need_alike_prompts_and_alike_answers():
    table = scored(
        (RIVER, MOON, 1), (RIVER, STONE, 1), (STONE, MOON, 1), (changed(RIVER, 5), MOON, 2)
    )
    step = NearDuplicates(keep_best="help", **LOOSE)
    assert judged(step, table) == [("near_duplicate", 3), STAYS, STAYS, STAYS]


def test_answers_are_compared_within_their_prompt_or_anywhere():
    table = scored(("q", MOON, 1), ("p", changed(MOON, 4), 2), ("q", changed(MOON, 8), 0))
    within = NearDuplicates(on="response", keep_best="help", **LOOSE)
    assert judged(within, table) == [STAYS, STAYS, ("near_duplicate", 0)]
    anywhere = NearDuplicates(on="response", within="all", keep_best="help", **LOOSE)
    assert judged(anywhere, table) == [("near_duplicate", 1), STAYS, ("near_duplicate", 1)]


def test_all_rows_of_a_prompt_stay_or_go_together():
    table = scored((RIVER, "a", 1), (RIVER, "b", 4), (changed(RIVER, 4), "c", 3), (MOON, "d", 0))
    step = NearDuplicates(on="prompt", keep_best="help", **LOOSE)
    assert [reason for reason, _ in judged(step, table)] == [None, None, "near_duplicate", None]
    assert step.keep(table, fitted(step, table))["detail"][2].startswith(
        f"kept {table['prompt_id'][0]}, Jaccard "
    )


def test_prompts_alone():
    table = prompts(RIVER, changed(RIVER, 2), MOON)
    step = NearDuplicates(**LOOSE)
    low = int(table["prompt_id"][0] > table["prompt_id"][1])
    assert [r for r, _ in judged(step, table)] == [
        None if low == 0 else "near_duplicate",
        "near_duplicate" if low == 0 else None,
        None,
    ]


def test_pairs_are_unordered_and_an_opposed_label_is_a_contradiction():
    table = pairs(
        ("q", RIVER, MOON),
        ("q", changed(MOON, 3), changed(RIVER, 4)),
        ("q", changed(RIVER, 7), changed(MOON, 8)),
        ("q", RIVER, STONE),
        chosen_score_help=[5.0, 1.0, 1.0, 1.0],
        rejected_score_help=[0.0] * 4,
    )
    step = NearDuplicates(keep_best="help", **LOOSE)
    assert judged(step, table) == [STAYS, ("contradiction", 0), ("near_duplicate", 0), STAYS]
    info = fitted(step, table).state.info
    assert (info["near_duplicate"], info["contradiction"]) == (1, 1)


def test_chinese_text_has_shingles_of_characters():
    text = "春天来了河边的柳树都绿了孩子们在草地上放风筝老人们坐在长椅上晒太阳大家都很高兴"
    near = text.replace("柳树", "杨树").replace("高兴", "快乐")
    table = scored(("q", text, 1), ("q", near, 2), ("q", text[::-1], 0))
    step = NearDuplicates(keep_best="help", **LOOSE)
    assert judged(step, table) == [("near_duplicate", 1), STAYS, STAYS]


@pytest.mark.parametrize("on", ["row", "prompt", "response"])
def test_no_rows_one_row_and_empty_texts(on):
    step = NearDuplicates(on=on)
    assert judged(step, scored()) == []
    assert judged(step, scored(("", "", 1))) == [STAYS]
    found = judged(step, scored(("", "", 2), (" ", "\n", 1), ("?", "!", 0)))
    reasons = [reason for reason, _ in found]
    assert reasons[2] is None


def test_all_rows_alike_leave_one():
    rows = [(f"q{i}", RIVER + "!" * i) for i in range(200)]
    table = responses(*rows)
    step = NearDuplicates(on="response", within="all")
    assert sum(reason is None for reason, _ in judged(step, table)) == 1


def test_it_needs_its_state_and_sensible_lengths():
    with pytest.raises(DataError, match="has not been fitted"):
        NearDuplicates().keep(scored(("q", "a", 1)), Context())
    with pytest.raises(ValidationError, match=r"long \(4\) is below short \(9\)"):
        NearDuplicates(short=9, long=4)


@pytest.mark.parametrize("linkage", ["cluster", "kept"])
def test_shards_order_and_runs_change_nothing(tmp_path, linkage):
    texts = [RIVER, MOON, STONE]
    rows = [(f"{t} {i}", changed(texts[i % 3], i % 7, i % 5 + 8)) for i, t in enumerate(texts * 8)]
    table = responses(*rows)
    fields = {"on": "response", "within": "all", "linkage": linkage, **LOOSE}
    step = {"filters.NearDuplicates": fields}
    found = []
    for i, (shard_rows, shuffled) in enumerate(
        [(1000, table), (5, table.sample(24, shuffle=True, seed=1))]
    ):
        result = run(recipe(step), one_file(shuffled), tmp_path / str(i), shard_rows)
        found.append((view(result, "responses")["response_id"].to_list(), ledger_of(result).rows()))
    assert found[0] == found[1]
    assert 3 <= len(found[0][0]) < 24
    reasons = {row[2] for row in found[0][1]}
    assert reasons == {"near_duplicate"}


def test_the_links_are_in_the_ledger(tmp_path):
    table = responses(("q", RIVER), ("q", changed(RIVER, 8)), ("q", MOON))
    step = {"filters.NearDuplicates": {"short": 4, "long": 16}}
    result = run(recipe(step), one_file(table), tmp_path)
    (row,) = ledger_of(result).to_dicts()
    stays = view(result, "responses")
    kept = row["detail"].split()[1].rstrip(",")
    assert kept in stays["response_id"].to_list()
    text = stays.filter(response_id=kept).select(text_of(pl.col("response"))).item()
    assert text in (RIVER, changed(RIVER, 8))


SHARED = Path(__file__).parents[4] / "shared" / "data" / "dedup"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_planted_copies_are_found_and_nothing_else(tmp_path):
    found = planted_recall(SHARED, tmp_path)
    floor = {"boilerplate": 0.92, "edit30": 0.7}
    scored = set(found) - {"numbers_changed", "same_prompt_other_response", "outside"}
    assert {k: found[k] for k in scored if found[k] < floor.get(k, 0.95)} == {}
    assert found["same_prompt_other_response"] == found["outside"] == 0


def test_a_word_of_a_short_prompt_does_not_part_two_long_rows():
    table = scored(
        ("Why is the sea so salty today?", f"{STONE} {RIVER}", 1),
        ("Why is the sea so salty now?", f"{STONE} {changed(RIVER, 3)}", 2),
    )
    assert judged(NearDuplicates(keep_best="help"), table) == [("near_duplicate", 1), STAYS]


def test_other_answers_to_nearly_the_same_prompt_stay():
    long = f"{STONE} {RIVER} {MOON}"
    table = scored(
        (f"{long} Who was born first?", "It was Ada.", 1),
        (f"{long} Who was born last?", "It was Bob.", 2),
        (f"{long} Who was born last?", "It was Eve, they say.", 3),
    )
    assert judged(NearDuplicates(keep_best="help"), table) == [STAYS] * 3


def test_the_same_answer_to_other_prompts_stays():
    table = scored((MOON, f"{STONE} {RIVER}", 1), (RIVER, f"{STONE} {RIVER}", 2))
    assert judged(NearDuplicates(keep_best="help"), table) == [STAYS] * 2


def test_a_cut_answer_to_the_same_prompt_goes():
    cut = "It was built in seventeen days"
    table = scored(
        ("q", f"{cut} by forty men", 2),
        ("q", cut, 1),
        ("other", cut, 3),
        ("r", "It is", 1),
        ("r", "It is not", 2),
    )
    wanted = [STAYS, ("near_duplicate", 0), STAYS, STAYS, STAYS]
    assert judged(NearDuplicates(keep_best="help"), table) == wanted
    within = NearDuplicates(on="response", keep_best="help")
    assert judged(within, table) == wanted
    assert judged(NearDuplicates(keep_best="help", threshold=0.9), table) == [STAYS] * 5
