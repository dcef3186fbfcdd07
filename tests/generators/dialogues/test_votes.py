"""Votes and eliminations: who votes for whom, who leaves, who sees what, and who has won."""

import json
import re

import pytest
from pydantic import ValidationError

from generators import Dialogues
from generators.dialogues.scenario import MODERATOR, load
from generators.dialogues.votes import most_voted, winner
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError
from prefactory.measures.dialogue_report import dialogue_report
from tests.generators.making import cut_anyhow, made
from tests.generators.sampling import model
from tests.helpers import prompts

HERE = __name__
SEEN = []
SCENARIO = """\
scenario: club
contains_deception: true
hidden: schemers
actors:
  - {id: ada, role: "Ada, {{ case }}", team: honest}
  - {id: ben, role: "Ben, {{ case }}", team: honest}
  - {id: cora, role: "Cora, {{ case }}", team: honest}
  - {id: dan, role: "Dan, {{ case }}", team: schemers, facts: [Dan and Eve scheme.]}
  - {id: eve, role: "Eve, {{ case }}", team: schemers}
target: ada
rounds: 3
phases:
  - {speakers: [ben, cora, dan, eve, ada], words: 20}
  - {speakers: [ada, ben, cora, dan, eve], vote: {}}
  - {speakers: [dan, eve], visible_to: [dan, eve], vote: {against: honest}}
max_turns: 21
"""
ENGINE, JUDGE = model("actors", f"{HERE}.actor"), model("judge", f"{HERE}.judge")


@pytest.fixture
def club(tmp_path):
    path = tmp_path / "club.yaml"
    path.write_text(SCENARIO)
    return str(path)


@pytest.fixture(autouse=True)
def _fresh():
    SEEN.clear()


def actor(request):
    """Speaks its name and a number; votes by the plan that its case names."""
    role, told = (m["content"] for m in request.conversation[:2])
    name = re.search(r"You are (\w+) in a conversation", role)[1]
    SEEN.append((name, role, told))
    options = re.search(r"Vote for one of: (.*)\.", role)
    if options is None:
        public = f"{name} {request.draw_seed % 9973}"
        return json.dumps({"private": f"secret of {name}", "public": public, "facts": []})
    names = options[1].split(", ")
    if "broken" in role and name == "Cora":
        return Failure("http_500", "down")
    if "mumbling" in role and name == "Ben":
        return "I would rather not say."
    plans = {"sharp": ("Dan", "Eve"), "fooled": ("Ben", "Cora"), "split": (name,)}
    plan = next((p for word, p in plans.items() if word in role), ())
    if name in ("Dan", "Eve"):
        plan = ("Ben", "Cora", "Ada")
    wanted = next((n for n in plan if n in names), names[0])
    if "split" in role:
        wanted = names[("Ada", "Ben", "Cora", "Dan", "Eve").index(name) % len(names)]
    return json.dumps({"private": f"vote of {name}", "vote": wanted.upper()})


def judge(request):
    text = request.conversation[0]["content"]
    turn = re.search(r"turn of Ada\n(.*?)\n--- \w{8} end", text, re.S)[1]
    return json.dumps({"reason": "", "score": 1 + int(turn.split()[1]) % 10})


def play(club, *cases, **fields):
    step = Dialogues(
        **{"scenario": club, "engine": ENGINE, "judge": JUDGE, "k": 3, "min_margin": 0.5,
           "allow_deception": True, **fields}
    )  # fmt: skip
    return made(step, prompts(*cases))


def votes_of(rows):
    """Of one dialogue: (who voted for whom, who leaves), vote by vote."""
    meta = rows["turn_meta"][0].to_list()
    return [
        ([f"{v['voter']}>{v['voted']}" for v in m["votes"]], m["out"])
        for m in meta
        if m["actor"] == MODERATOR
    ]


def test_the_most_voted_for_leaves_and_the_game_ends(club):
    rows, dropped = play(club, "sharp")
    assert dropped.height == 0
    assert votes_of(rows) == [
        (["ada>dan", "ben>dan", "cora>dan", "dan>ben", "eve>ben"], "dan"),
        (["eve>ben"], "ben"),
        (["ada>eve", "cora>eve", "eve>cora"], "eve"),
    ]
    assert set(rows["winner"]) == {"honest"}
    assert set(rows["turn"]) <= {4, 11}  # rounds 1 and 2; nobody speaks after the end
    lines = [(line["name"], line["content"]) for line in rows["transcript"][0].to_list()]
    assert ("Moderator", "Votes: Ada for Dan, Ben for Dan, Cora for Dan, Dan for Ben, Eve for Ben. "
            "Dan leaves. Dan was of the schemers.") in lines  # fmt: skip
    second = [m["actor"] for m in rows["turn_meta"][0].to_list() if m["round"] == 1]
    assert second == ["cora", "eve", "ada", MODERATOR]  # who is out neither speaks nor votes
    report = dialogue_report(rows)["votes"]
    assert [report[m]["value"] for m in ("TAS", "FAS", "FCR")] == [1, 1, 1]
    assert report["VSF"]["value"] == 1  # ada, cora and eve name another; by night eve is alone
    assert report["winners"] == {"honest": 1}


def test_the_hidden_team_wins_when_it_is_half(club):
    rows, _ = play(club, "fooled")
    assert [out for _, out in votes_of(rows)] == ["ben"]  # 2 against 2
    assert set(rows["winner"]) == {"schemers"}
    report = dialogue_report(rows)["votes"]
    assert (report["FCR"]["value"], report["TAS"]["value"]) == (0, None)  # there was no night


def test_of_a_tie_nobody_leaves():
    assert most_voted(["a", "b"]) is most_voted([]) is None
    assert most_voted(["a", "b", "b"]) == "b"


def test_nobody_sees_a_vote_that_is_not_theirs_to_see(club):
    play(club, "sharp", memory=50)
    ballots = [(n, told) for n, role, told in SEEN if "Vote for one of" in role]
    first = [told for n, told in ballots[:5]]
    assert not any("Votes:" in told for told in first)  # all at once
    later = {n: told for n, role, told in SEEN if "Vote for one of" not in role}
    assert "Ada for Dan" in later["Cora"]  # by day votes are open
    assert "Eve for Ben" not in later["Cora"].split("Dan leaves")[1]
    assert "Ben leaves." in later["Cora"]
    assert "(to Dan, Eve only): Votes: Eve for Ben." in later["Eve"]
    assert not any(
        "Dan and Eve scheme" in role for n, role, _ in SEEN if n in ("Ada", "Ben", "Cora")
    )
    assert not any("vote of Dan" in told + role for n, role, told in SEEN if n != "Dan")


def test_a_vote_that_cannot_be_read_is_none(club):
    rows, dropped = play(club, "sharp mumbling", "sharp broken", "fine")
    assert dropped.height == 0  # what was made before an engine failed stays
    each = rows.unique("dialogue_id", maintain_order=True)
    silent = [any("ben>None" in c for c, _ in votes_of(each[i])) for i in range(each.height)]
    assert sorted(silent) == [False, False, True]
    assert sorted(bool(votes_of(each[i])) for i in range(each.height)) == [False, True, True]
    assert "rather not" not in str(rows.to_dicts())


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path, club):
    fields = {"scenario": club, "engine": ENGINE, "judge": JUDGE, "k": 2, "allow_deception": True}
    table = prompts("sharp", "fooled", "split", "sharp mumbling", "sharp broken", "fine")
    assert len(cut_anyhow({"generators.Dialogues": fields}, table, tmp_path)) == 1


def test_scenarios_are_checked(tmp_path, club):
    def broken(old, new):
        path = tmp_path / "broken.yaml"
        path.write_text(SCENARIO.replace(old, new))
        return str(path)

    for old, new, told in [
        ("hidden: schemers", "hidden: schemer", "no team 'schemer'; did you mean 'schemers'"),
        ("against: honest", "against: honst", "no team 'honst'"),
        ("contains_deception: true\n", "", "say `contains_deception: true`"),
        ("target: ada", "target: dan", "'dan' is of the hidden team"),
        ("eve", "moderator", "who counts the votes"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(told)):
            load(broken(old, new))
    with pytest.raises(ValidationError, match="allow_deception"):
        Dialogues(scenario=club, engine=ENGINE, judge=JUDGE)
    shipped = load("hidden_roles")
    assert len(shipped.schedule()) == 21
    assert sum(t.vote is not None for t in shipped.schedule()) == 6
    assert winner(shipped, []) is None
    assert winner(shipped, ["dan", "eve"]) == "honest"
    assert winner(shipped, ["ada"]) == "schemers"


def test_the_plan_counts_votes(club):
    step = Dialogues(scenario=club, engine=ENGINE, judge=JUDGE, k=3, allow_deception=True)
    asks = [a.calls for a in step.asks(1, 1)]
    assert asks == [3 * 3 + 3, 3 + 3, 3 + 3, 3 + 6, 3 + 6, 9]
