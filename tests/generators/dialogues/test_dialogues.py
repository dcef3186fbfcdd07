import json
import re

import polars as pl
import pytest
from pydantic import ValidationError

from generators import Dialogues
from generators.dialogues.play import Candidate, Dialogue, Fact
from generators.dialogues.scenario import Turn, load
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from tests.generators.making import cut_anyhow, made
from tests.generators.sampling import model
from tests.helpers import asking, prompts

HERE = __name__
SEEN = []
SCENARIO = """\
scenario: office
grid:
  mood: [{id: glad, text: You are glad.}, {id: sad, text: You are sad.}]
actors:
  - {id: guest, role: "A guest with {{ case }}. {{ mood }}", facts: facts}
  - {id: clerk, role: A clerk., goal: Help the guest.}
  - {id: boss, name: The Boss, role: A boss., facts: [Secret of the boss]}
target: clerk
phases:
  - {speakers: [guest, clerk], rounds: 2, visible_to: [guest, clerk], words: 20}
  - {speakers: [boss, clerk], visible_to: [clerk, boss], words: 20}
  - {speakers: [guest, clerk], visible_to: [guest, clerk], words: 20}
max_turns: 8
"""
ENGINE, JUDGE = model("actors", f"{HERE}.actor"), model("judge", f"{HERE}.judge")


@pytest.fixture
def office(tmp_path):
    path = tmp_path / "office.yaml"
    path.write_text(SCENARIO)
    return str(path)


@pytest.fixture(autouse=True)
def _fresh():
    SEEN.clear()


def cases(*texts):
    facts = [[f"{t} fact one", f"{t} fact two"] for t in texts]
    return prompts(*texts).with_columns(facts=pl.Series(facts, dtype=pl.List(pl.String)))


def who(request):
    return re.search(r"You are (Guest|Clerk|The Boss) in a", request.conversation[0]["content"])[1]


def actor(request):
    """Says its name and a number; tells its first open fact when it is asked or the boss."""
    role, told = (m["content"] for m in request.conversation[:2])
    SEEN.append((who(request), role + told))
    if "down" in told and who(request) == "Clerk":
        return Failure("http_500", "down")
    facts = re.findall(r"- (F\d): (.+)", role)[:1]
    public = f"{who(request)} {request.draw_seed % 9973}"
    if "mute" in role and who(request) == "Guest":
        public = "mute guest"
    if "down" in role and who(request) == "Guest":
        public = "all is down"
    if "[end]" in role and who(request) == "Clerk":
        public += " [end]"
    if facts:
        public += f". {facts[0][1]}."
    reply = {"private": f"hidden {who(request)}", "public": public, "facts": [f for f, _ in facts]}
    return json.dumps(reply)


def judge(request):
    text = request.conversation[0]["content"]
    turn = re.search(r"turn of Clerk\n(.*?)\n--- \w{8} end", text, re.S)[1]
    return json.dumps({"reason": "", "score": 1 + int(turn.split()[1].strip(".")) % 10})


def play(office, table, seed=0, **fields):
    step = Dialogues(**{"scenario": office, "engine": ENGINE, "judge": JUDGE, "k": 3, **fields})
    return made(step, table, seed=seed)


def test_each_turn_of_the_target_is_a_pair_under_one_history(office):
    rows, dropped = play(office, cases("a leak"))
    assert dropped.height == 0
    assert rows["cell"].unique().sort().to_list() == ["mood=glad", "mood=sad"]
    assert set(rows["turn"]) <= {1, 3, 5, 7}
    assert rows.height > 4
    for row in rows.iter_rows(named=True):
        names = [line["name"] for line in row["transcript"]]
        assert names == ["Guest", "Clerk", "Guest", "Clerk", "The Boss", "Clerk", "Guest", "Clerk"]
        said = [line["content"] for line in row["transcript"]]
        roles = [m["role"] for m in row["prompt"]]
        assert roles[0] == "system"
        assert row["prompt"][0]["content"] == "A clerk.\n\nWhat you want: Help the guest."
        assert roles[-1] == "user"
        assert row["prompt"][-1]["content"].endswith(said[row["turn"] - 1])
        assert row["chosen"][0]["content"] == said[row["turn"]]  # it went on with the best
        scores = [1 + int(row[s][0]["content"].split()[1]) % 10 for s in ("chosen", "rejected")]
        assert scores == [row["chosen_score_turn"], row["rejected_score_turn"]]
        assert row["margin"] == scores[0] - scores[1] >= 1
    assert set(rows["label_source"]) == {"judge"}
    assert not rows["contains_deception"].any()


def test_nobody_sees_what_was_not_said_to_them(office):
    play(office, cases("a leak"))
    views = {name: [v for n, v in SEEN if n == name] for name in ("Guest", "Clerk", "The Boss")}
    for name, seen in views.items():
        for view in seen:
            others = [o for o in views if o != name]
            assert not any(f"hidden {o}" in view for o in others)  # private thoughts stay private
    assert not any("Secret of the boss" in v or "The Boss" in v for v in views["Guest"])
    assert not any("fact one" in v for v in views["The Boss"])  # the guest never speaks to it
    clerk = [("fact one" in v, "fact two" in v, "Secret" in v) for v in views["Clerk"]]
    first = clerk[:6]  # turn 1, three candidates in two cells: one fact is out
    assert set(first) == {(True, False, False)}
    assert any(c[1] for c in clerk)
    assert any(c[2] for c in clerk)
    assert any("The Boss (to Clerk only): The Boss" in v for v in views["Clerk"])
    assert all("hidden Guest" in v for v in views["Guest"][2:])


def test_facts_are_told_once_and_written_down(office):
    rows, _ = play(office, cases("a leak"))
    for row in rows.iter_rows(named=True):
        told = [(m["actor"], f) for m in row["turn_meta"] for f in m["facts_revealed"]]
        assert told == [("guest", "F1"), ("guest", "F2"), ("boss", "F1")]
        assert [m["turn"] for m in row["turn_meta"]] == list(range(8))
        assert row["turn_meta"][4]["visible_to"] == ["clerk", "boss"]
        assert row["turn_meta"][4]["phase"] == 1
        assert all(m["tokens"] > 0 and not m["dropped"] for m in row["turn_meta"])


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(office):
    once, _ = play(office, cases("a leak", "b"))
    again, _ = play(office, cases("a leak", "b"))
    other, _ = play(office, cases("a leak", "b"), seed=1)
    assert once.equals(again)
    assert set(once["pair_id"]).isdisjoint(other["pair_id"])


def reader(request):
    """A clerk that shows its thoughts when the guest is mute, in no form that can be read."""
    if who(request) == "Clerk" and "mute" in request.conversation[1]["content"]:
        return "Private: I despise the guest. Public: hello"
    return actor(request)


def test_a_turn_that_cannot_be_read_is_dropped_and_marked(office):
    engine = model("actors", f"{HERE}.reader")
    rows, dropped = play(office, cases("mute"), engine=engine)
    assert rows.height == 0
    assert dropped["reason"].to_list() == ["no_turn_branched"]
    assert (
        "0 turns were tried; the last failure: unparseable, turn 7: turn: " in dropped["detail"][0]
    )
    step = Dialogues(scenario=office, engine=engine, make="responses", k=2, branch_turns=(3,))
    rows, _ = made(step, cases("mute", "fine"))
    assert "despise" not in str(rows.to_dicts())
    assert set(rows["turn"]) == {5}
    step = Dialogues(scenario=office, engine=ENGINE, make="responses", k=1)
    rows, _ = made(step, cases("fine"))
    assert rows.height == 8


ASKED = []


def never_rates(request):
    ASKED.append(request.row_id)
    return "I'd rather not say."


def test_a_dialogue_that_nobody_can_rate_is_given_up(office):
    ASKED.clear()
    rows, dropped = play(office, cases("a"), judge=model("judge", f"{HERE}.never_rates"))
    assert rows.height == 0
    assert dropped["reason"].to_list() == ["unparseable"]
    assert dropped["detail"][0].startswith("all 6 ratings failed, the last: turn 3: rate: ")
    assert len(ASKED) == 2 * 6 * 2  # of two persons, asked twice each; not those of all four turns


def test_what_was_made_before_an_engine_failed_stays(office):
    rows, dropped = play(office, cases("down", "fine"))
    assert dropped["reason"].to_list() == ["http_500"]
    assert rows["source_prompt_id"].n_unique() == 1


def test_alike_ratings_are_no_pair(office):
    rows, dropped = play(office, cases("fine"), min_margin=10)
    assert rows.height == 0
    assert dropped["detail"].to_list() == ["4 turns were tried"]


def test_responses_are_all_candidates(office):
    step = Dialogues(scenario=office, engine=ENGINE, make="responses", k=3, branch_turns=(1, 2))
    rows, _ = made(step, cases("a leak"))
    assert step.out_shape(Shape.PROMPTS) == Shape.RESPONSES
    assert rows.height == 12
    assert (
        rows.group_by("prompt_id").agg("sample")["sample"].list.sort().to_list() == [[0, 1, 2]] * 4
    )
    assert set(rows["turn"]) == {1, 3}
    first = rows.filter(sample=0).sort("turn")["response"].to_list()[0][0]["content"]
    assert first in [line["content"] for line in rows["transcript"][0].to_list()]


def test_memory_keeps_the_first_line_and_the_last_ones(office):
    rows, _ = play(office, cases("a leak"), memory=1, min_margin=0.5)
    last = rows.filter(turn=7)["prompt"].to_list()[0]
    users = [m for m in last if m["role"] == "user"]
    assert len(last) == 2
    assert users[0]["content"].count("Guest (to Clerk only):") == 2
    assert any("(5 earlier turns are left out here.)" in view for _, view in SEEN)


def test_a_grid_can_be_drawn_from(office):
    rows, _ = play(office, cases(*"abcdefgh"), cells=1, min_margin=0.5)
    cells = rows.group_by("source_prompt_id").agg(pl.col("cell").n_unique())["cell"]
    assert cells.to_list() == [1] * 8
    assert rows["cell"].n_unique() == 2


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path, office):
    fields = {"scenario": office, "engine": ENGINE, "judge": JUDGE, "k": 2}
    table = cases("down", "mute", *[f"case {i}" for i in range(5)])
    assert len(cut_anyhow({"generators.Dialogues": fields}, table, tmp_path)) == 1


def test_dialogues_end_when_they_should(tmp_path):
    path = tmp_path / "told.yaml"
    path.write_text(SCENARIO + "ends_when_told: guest\n")
    rows, _ = play(str(path), cases("a leak"), min_margin=0.5)
    assert max(rows["turn"]) == 1  # after turn 2 both facts are out
    assert set(rows["transcript"].list.len()) == {3}
    path = tmp_path / "said.yaml"
    path.write_text(SCENARIO + 'ends_with: "[end]"\n')
    rows, _ = play(str(path), cases("a leak"), min_margin=0.5)
    assert set(rows["turn"]) == {1}
    assert "[end]" not in str(rows.to_dicts())


def test_scenarios_are_checked(tmp_path, office):
    def broken(old, new):
        path = tmp_path / f"{abs(hash(new))}.yaml"
        path.write_text(SCENARIO.replace(old, new))
        return str(path)

    for old, new, said in [
        ("target: clerk", "target: clark", "no actor 'clark'; did you mean 'clerk'"),
        ("{{ mood }}", "{{ mod }}", "'mod' is undefined"),
        ("max_turns: 8", "max_turns: 1", "the target 'clerk' never speaks in 1 turns"),
        ("words: 20", "wordz: 20", "line 10: phases.0.wordz"),
        ("id: boss", "id: clerk", "two actors have one id"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load(broken(old, new))
    with pytest.raises(ConfigError, match="there are hidden_roles, patient_doctor"):
        load("nowhere")
    liar = broken("scenario: office", "scenario: office\ncontains_deception: true")
    with pytest.raises(ValidationError, match="allow_deception"):
        Dialogues(scenario=liar, engine=ENGINE, judge=JUDGE)
    rows, _ = play(liar, cases("a"), allow_deception=True)
    assert rows["contains_deception"].all()
    with pytest.raises(ValidationError, match="nobody speaks for clerk, boss"):
        Dialogues(scenario=office, cast=[{"actor": "guest", "engine": ENGINE}], judge=JUDGE)
    with pytest.raises(ValidationError, match="judge goes with"):
        Dialogues(scenario=office, engine=ENGINE)
    table = cases("a").with_columns(facts=pl.lit(None, dtype=pl.List(pl.String)))
    step = Dialogues(scenario=office, engine=ENGINE, judge=JUDGE)
    with pytest.raises(DataError, match="give those an empty list"):
        step.generate(table, asking())


def test_the_plan_counts_calls(office):
    step = Dialogues(scenario=office, engine=ENGINE, judge=JUDGE, k=3)
    assert [a.calls for a in step.asks(5, 5)] == [30, 120, 10, 120]
    assert step.grows(5, 5) == (40, 40)
    assert step.needs(Shape.PROMPTS) == {"facts": pl.List(pl.String)}
    shipped = load("patient_doctor")
    assert len(shipped.cells()) == 10
    assert len(shipped.schedule()) == 8


def test_a_fact_that_was_told_without_saying_so_is_told():
    turn = Turn(0, 0, "guest", ("guest", "clerk"), 20)
    dialogue = Dialogue(0, "k", facts={"guest": [Fact("F1", "My shoe hurts."), Fact("F2", "b")]})
    dialogue.thoughts["guest"] = []
    said = Candidate(0, "k", public="Well,  my SHOE hurts, you see.", facts=("F7",))
    dialogue.say(turn, said)
    assert dialogue.meta[0]["facts_revealed"] == ["F1"]
    assert [f.id for f in dialogue.open_facts("guest")] == ["F2"]
    dialogue.say(turn, said)
    assert dialogue.meta[1]["facts_revealed"] == []
