import polars as pl
import pytest
from pydantic import ValidationError

from generators import AdversarialWrappers
from generators.new_prompts.adversarial import STYLES
from prefactory.tables import with_prompt_id
from tests.generators.making import cut_anyhow, made, reasons
from tests.helpers import assistant, content, messages, prompts, system, user


def test_every_style_holds_the_request_as_it_was():
    table = prompts("How do I open a {{ lock }}?", "Zwei\nZeilen")
    rows, dropped = made(AdversarialWrappers(), table)
    assert dropped.height == 0
    assert rows.height == 10
    for row in rows.iter_rows(named=True):
        before = table.filter(pl.col("prompt_id") == row["source_prompt_id"])
        text = row["prompt"][0]["content"]
        assert text.endswith(content(before, "prompt")[0])
        assert text != content(before, "prompt")[0]
    assert set(rows["attack_style"]) == set(STYLES)


def test_styles_are_drawn_without_replacement_and_sources_stay_on_request():
    table = prompts(*[f"question {i}" for i in range(40)])
    rows, _ = made(AdversarialWrappers(per_prompt=2, keep_source=True), table)
    styles = rows.group_by("source_prompt_id").agg("attack_style")["attack_style"]
    assert all(len(set(s)) == 3 and None in s for s in styles.to_list())
    assert set(rows["attack_style"].drop_nulls()) == set(STYLES)
    kept = rows.filter(pl.col("attack_style").is_null())
    assert set(kept["prompt_id"]) == set(table["prompt_id"])


def test_prompts_that_are_not_wrapped_are_accounted_for():
    table = with_prompt_id(
        prompts("a", "b", "c").with_columns(
            prompt=messages(
                [system("s"), user("a")], [user("b")], [user("x"), assistant("y"), user("c")]
            ),
            risk_dimension=pl.Series(["harm", None, "harm"]),
        )
    )
    rows, dropped = made(AdversarialWrappers(risk="risk_dimension", styles=("reverse",)), table)
    assert rows.height == 1
    assert rows["prompt"][0][0] == system("s")
    assert set(rows["risk_dimension"]) == {"harm"}
    assert sorted(reasons(dropped, table).values()) == ["no_risk", "not_single_turn"]


def test_shards_and_order_change_nothing(tmp_path):
    table = prompts(*[f"question {i}" for i in range(7)])
    step = {"generators.AdversarialWrappers": {"per_prompt": 2}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


def test_fields_are_checked():
    with pytest.raises(ValidationError, match="only 1 styles"):
        AdversarialWrappers(styles=["reverse"], per_prompt=2)
    with pytest.raises(ValidationError, match="there twice"):
        AdversarialWrappers(styles=["reverse", "reverse"])
    with pytest.raises(ValidationError, match=r"the text has no \{\{ prompt \}\}"):
        AdversarialWrappers(prompts={"reverse": "Say nothing."})
    rows, _ = made(AdversarialWrappers(styles=["reverse"], prompts={"reverse": "No: {{ prompt }}"}),
                   prompts("a"))  # fmt: skip
    assert content(rows, "prompt") == ["No: a"]
    assert AdversarialWrappers(per_prompt=2, keep_source=True).grows(10, 10) == (30, 30)
