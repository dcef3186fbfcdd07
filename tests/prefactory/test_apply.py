import polars as pl
import pytest

from prefactory.apply import apply_filter, apply_generator, apply_labeler
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Filter, Generated, Generator, Labeler
from prefactory.tables import Shape, canonical_order, with_prompt_id
from tests.helpers import assistant, content, messages, pairs, prompts, responses, user
from tests.steps import DropLong, Echo, Length, Shout

CTX = Context()
ANSWERS = responses(("p", "short"), ("p", "much too long"), ("q", "short"))
PAIRS = pairs(
    ("p", "short", "tiny"),
    ("p", "much too long", "tiny"),
    ("q", "short", "much too long"),
    ("r", "much too long", "also much too long"),
)


def make(base, method, do, **attributes):
    """A step of one function."""
    body = {method: lambda self, table, ctx: do(table), "__module__": __name__, **attributes}
    return type("Made", (base,), body)()


# -- filters -----


def test_a_filter_gives_ledger_rows_in_table_order():
    found = apply_filter(DropLong(), "drop", ANSWERS, Shape.RESPONSES, CTX)
    assert found.rows() == [(ANSWERS["response_id"][1], "drop", "too_long", "13 chars")]


def test_a_filter_of_responses_drops_the_pair_and_names_the_side():
    found = apply_filter(DropLong(), "drop", PAIRS, Shape.PAIRS, CTX)
    ids = PAIRS["pair_id"]
    assert found.rows() == [
        (ids[1], "drop", "too_long", "chosen: 13 chars"),
        (ids[2], "drop", "too_long", "rejected: 13 chars"),
        (ids[3], "drop", "too_long", "chosen: 13 chars"),
    ]


def test_a_reason_without_detail_still_names_the_side():
    plain = make(
        Filter,
        "keep",
        lambda t: t.select(
            reason=pl.when(pl.lit(pl.Series(content(t, "response"))) == "tiny").then(pl.lit("x")),
            detail=pl.lit(None),
        ),
    )
    found = apply_filter(plain, "f", PAIRS, Shape.PAIRS, CTX)
    assert found.select("reason", "detail").rows() == [("x", "rejected: ")] * 2


@pytest.mark.parametrize("shape", [Shape.RESPONSES, Shape.PAIRS])
def test_a_filter_on_an_empty_table(shape):
    table = (ANSWERS if shape == Shape.RESPONSES else PAIRS).clear()
    assert apply_filter(DropLong(), "drop", table, shape, CTX).height == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t: t.head(1).select(reason=pl.lit("x"), detail=pl.lit("y")), "judged 1 of 3 rows"),
        (lambda t: t.select(reason=pl.lit("x")), r"with columns \['reason'\]"),
        (lambda t: t, "it must return a table with `reason`"),
    ],
)
def test_a_filter_that_breaks_its_promise(answer, words):
    with pytest.raises(DataError, match=words):
        apply_filter(make(Filter, "keep", answer), "bad", ANSWERS, Shape.RESPONSES, CTX)


# -- labelers -----


def test_a_labeler_gives_id_and_new_columns():
    found = apply_labeler(Length(), "length", ANSWERS, Shape.RESPONSES, CTX)
    assert found.columns == ["response_id", "score_length"]
    assert found["response_id"].equals(ANSWERS["response_id"])
    assert found["score_length"].to_list() == [5.0, 13.0, 5.0]


def test_a_labeler_of_responses_labels_each_distinct_response_once():
    Length.seen.clear()
    found = apply_labeler(Length(), "length", PAIRS, Shape.PAIRS, CTX)
    assert found.columns == ["pair_id", "chosen_score_length", "rejected_score_length"]
    assert found["pair_id"].equals(PAIRS["pair_id"])
    assert found["chosen_score_length"].to_list() == [5.0, 13.0, 5.0, 13.0]
    assert found["rejected_score_length"].to_list() == [4.0, 4.0, 13.0, 18.0]
    assert (
        len(Length.seen) == 7 == len(set(Length.seen))
    )  # of the eight sides `tiny` is there twice


def test_a_labeler_on_an_empty_table():
    found = apply_labeler(Length(), "length", PAIRS.clear(), Shape.PAIRS, CTX)
    assert found.height == 0
    assert found.columns == ["pair_id", "chosen_score_length", "rejected_score_length"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda t: t.select(score_x=pl.lit(1.0)),  # one row: the literal is not as tall as the table
        lambda t: t.select(score_x=pl.int_range(pl.len())),
        lambda t: t.select("source", score_x=pl.lit(1.0)),
        lambda t: t.select(score_y=pl.int_range(pl.len()).cast(pl.Float64)),
        lambda t: t.select(pl.col("source")),
    ],
)
def test_a_labeler_that_breaks_its_promise(answer):
    step = make(Labeler, "label", answer, adds=lambda self, shape: {"score_x": pl.Float64()})
    with pytest.raises(DataError, match=r"bad returned .* it promised 3 rows of .*score_x"):
        apply_labeler(step, "bad", ANSWERS, Shape.RESPONSES, CTX)


# -- generators -----


def generator(do, **attributes):
    attributes = {"shapes": (Shape.PROMPTS,), "parents": ("parent",), **attributes}
    return make(Generator, "generate", do, **attributes)


def accounts(*rows):
    schema = dict.fromkeys(("row_id", "reason", "detail"), pl.String)
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def same(table):
    return table.with_columns(parent="prompt_id")


def test_a_generator_gives_rows_in_canonical_order_and_accounts():
    table = prompts("a", "silent b", "c")
    rows, dropped = apply_generator(Echo(), "echo", table, Shape.PROMPTS, CTX)
    assert rows.equals(canonical_order(rows, Shape.RESPONSES))
    assert sorted(content(rows, "response")) == ["echo a", "echo c"]
    assert dropped.rows() == [(table["prompt_id"][1], "echo", "silent", None)]


def test_a_generator_on_an_empty_table():
    rows, dropped = apply_generator(Echo(), "echo", prompts("a").clear(), Shape.PROMPTS, CTX)
    assert (rows.height, dropped.height) == (0, 0)


def test_rows_that_are_both_parent_and_dropped_are_parents():
    table = prompts("a")
    step = generator(lambda t: Generated(same(t), accounts((t["prompt_id"][0], "x", None))))
    assert apply_generator(step, "g", table, Shape.PROMPTS, CTX)[1].height == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t: Generated(same(t.head(1)), accounts()), "1 of 2 rows are neither a parent nor"),
        (
            lambda t: Generated(same(t).with_columns(parent=pl.lit("stranger")), accounts()),
            "2 of 2 rows are neither",
        ),
        (
            lambda t: Generated(
                pl.concat(
                    [same(t), with_prompt_id(prompts("new")).with_columns(parent=pl.lit("who"))]
                ),
                accounts(),
            ),
            "1 parents are not among its rows",
        ),
        (
            lambda t: Generated(same(t.head(1)), accounts(*[(t["prompt_id"][1], "x", None)] * 2)),
            "accounts for a row twice",
        ),
        (lambda t: Generated(pl.concat([same(t), same(t)]), accounts()), "'prompt_id' is not uniq"),
        (lambda t: Generated(same(t).drop("source"), accounts()), "column 'source' is missing"),
        (lambda t: Generated(t.select(parent="prompt_id"), accounts()), "'prompt_id' is missing"),
    ],
)
def test_a_generator_that_breaks_its_promise(answer, words):
    with pytest.raises(DataError, match=words):
        apply_generator(generator(answer), "bad", prompts("a", "b"), Shape.PROMPTS, CTX)


def test_new_prompts_need_the_flag():
    def rewrite(table):
        rows = table.with_columns(parent="prompt_id", prompt=messages([user("new")]))
        return Generated(with_prompt_id(rows), accounts())

    with pytest.raises(DataError, match="new prompts"):
        apply_generator(generator(rewrite), "bad", prompts("a"), Shape.PROMPTS, CTX)
    step = generator(rewrite, new_prompts=True)
    assert content(apply_generator(step, "g", prompts("a"), Shape.PROMPTS, CTX)[0], "prompt") == [
        "new"
    ]


def test_new_prompts_may_make_one_row_twice():
    """Whether the copies meet in one shard is chance: the exchange puts them in the ledger."""
    table = pairs(("a", "x", "y"), ("A", "x", "y"))
    rows, _ = apply_generator(Shout(), "shout", table, Shape.PAIRS, CTX)
    assert content(rows, "prompt") == ["A", "A"]
    assert rows["pair_id"].n_unique() == 1


def test_messages_may_be_empty():
    table = responses(("", "")).with_columns(response=messages([assistant("")]))
    assert apply_labeler(Length(), "l", table, Shape.RESPONSES, CTX)["score_length"].item() == 0.0
