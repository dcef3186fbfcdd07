"""Whether the target named what is true, and when, in the patient-doctor recipe's way."""

import json
import re

import pytest
from pydantic import ValidationError

from generators import Dialogues
from prefactory.measures.dialogue_report import dialogue_report
from tests.generators.dialogues import test_dialogues as play
from tests.generators.making import made
from tests.generators.sampling import model
from tests.helpers import content

HERE = __name__
JUDGE = model("judge", f"{HERE}.judge")


@pytest.fixture
def office(tmp_path):
    path = tmp_path / "office.yaml"
    path.write_text(play.SCENARIO)
    return str(path)


def judge(request):
    """Finds that the third line names the truth of "known", and rates later turns lower."""
    asked = request.conversation[0]["content"]
    if "Decide whether Clerk named what is true" not in asked:
        return play.judge(request)
    lines = re.findall(r"^(\d+)\. Clerk \d+", asked, re.M)
    assert lines == [str(i + 1) for i in range(len(lines))]
    truth = re.search(r"what is true\n(.*)", asked)[1]
    told = {
        "known": {"diagnosis": "exact", "line": 3},
        "near": {"diagnosis": "close", "line": 1},
        "far": {"diagnosis": "none", "line": 0},
        "odd": {"diagnosis": "exact", "line": 150},
    }
    return json.dumps({"reason": "", **told[truth]})


def test_the_judge_says_whether_and_when_it_was_named(office):
    texts = ("known", "near", "far", "odd", "")
    table = play.cases(*texts).with_columns(truth="prompt")
    names = dict(zip(table["prompt_id"], content(table, "prompt"), strict=True))
    table = table.with_columns(truth=table["prompt_id"].replace_strict(names))
    step = Dialogues(scenario=office, engine=play.ENGINE, judge=JUDGE, k=3, min_margin=0.5,
                     reference="truth", diagnosis=True)  # fmt: skip
    rows, _ = made(step, table)
    by_truth = {
        names[source]: (diagnosis, turn)
        for source, diagnosis, turn in rows.select(
            "source_prompt_id", "diagnosis", "diagnosis_turn"
        ).iter_rows()
    }
    assert by_truth == {
        "known": ("exact", 5),  # the clerk's third turn is the sixth of all
        "near": ("close", 1),
        "far": ("none", None),
        "odd": (None, None),  # a line that there is not
        "": (None, None),  # nothing is known to be true
    }
    report = dialogue_report(rows)
    assert report["diagnosis"]["exact"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert [p["named"]["value"] for p in report["diagnosis"]["curve"]] == [
        pytest.approx(1 / 3, abs=1e-6),
        pytest.approx(1 / 3, abs=1e-6),
        pytest.approx(2 / 3, abs=1e-6),
        pytest.approx(2 / 3, abs=1e-6),
    ]
    turns = [m for m in rows["turn_meta"][0].to_list() if m["rating"] is not None]
    assert [m["turn"] for m in turns] == [1, 3, 5, 7]
    assert {m["actor"] for m in turns} == {"clerk"}
    assert len(report["ratings"]["curve"]) == 4
    plain, _ = made(step.model_copy(update={"diagnosis": False}), table)
    assert plain.drop("diagnosis", "diagnosis_turn").equals(
        rows.drop("diagnosis", "diagnosis_turn")
    )
    assert [a.calls for a in step.asks(5, 5)][-1] == 5 * 2 * (3 * 4 + 1)


def test_it_needs_a_judge_and_what_is_true(office):
    fields = {"scenario": office, "engine": play.ENGINE, "diagnosis": True}
    with pytest.raises(ValidationError, match="name both"):
        Dialogues(**fields, judge=JUDGE)
    with pytest.raises(ValidationError, match="name both"):
        Dialogues(**fields, make="responses", reference="truth")
