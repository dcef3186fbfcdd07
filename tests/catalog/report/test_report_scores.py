import json
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.report import build, pareto, read, scores, stats
from catalog.report.heatmap import Cell, heatmap
from prefactory.measures.judge_report import vote_report
from prefactory.tables import Shape
from tests.catalog.report.test_report import pair, said, save, version

places = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20)


def conflicting():
    """x agrees with every label, y with none of the first three; z ties."""
    rows = []
    for i, (x, y) in enumerate([(1.0, -1.0), (2.0, -1.0), (1.0, -2.0), (1.0, 1.0)]):
        chosen = {"chosen_score_x": x, "chosen_score_y": y, "chosen_score_z": 1.0}
        rejected = {f"rejected_{c.removeprefix('chosen_')}": 0.0 for c in chosen}
        rows.append(pair(i, **chosen, **rejected | {"rejected_score_z": 1.0}))
    return rows


def section_of(folder):
    saved = next(iter(read.tables(folder).values()))
    numbers = stats.numbers(saved)
    names = [o.name for o in stats.objective_rows(numbers)]
    return scores.section(saved, numbers, names)


def data_of(page):
    return json.loads(re.search(r'id="disagreement">(.*?)</script>', page)[1])["disagreement"]


def test_the_section_names_the_most_conflicting_objectives_first(tmp_path):
    found = section_of(version(tmp_path / "v", {"train": conflicting()}))
    first = found.both[0]
    assert (first["a"], first["b"], first["conflict"], first["n"]) == ("x", "y", 3, 4)
    assert (found.plot.names[found.plot.x], found.plot.names[found.plot.y]) == ("x", "y")
    accuracy = {row["objective"]: row["accuracy"] for row in found.rows}
    assert accuracy == {"x": 1.0, "y": 0.25, "z": 0.5}
    assert "Most: x and y, 75.0%." in found.conflict
    assert found.contradictions is None


def test_the_page_shows_it_and_gives_the_numbers_to_machines(tmp_path):
    page = build(version(tmp_path / "v", {"train": conflicting()}))
    assert '<a href="#agreement">' in page
    assert "x and y: opposite in 3 of 4 pairs (75.0%), same in 25.0%, tied in 0.0%" in page
    assert "x / y</th><td>75.0%</td>" in page
    data = data_of(page)
    assert data["pairs"] == 4
    assert [row["conflict"] for row in data["agreement"]] == [3, 0, 0]


def test_pairs_of_one_prompt_widen_the_error(tmp_path):
    alone, together = conflicting(), conflicting()
    for row in together:
        row["prompt_id"] = "prompt"
    errors = [
        section_of(version(tmp_path / name, {"train": rows})).rows[1]["se"]
        for name, rows in (("a", alone), ("b", together))
    ]
    assert errors[0] == pytest.approx((3 * 0.25**2 + 0.75**2) ** 0.5 / 4)
    assert errors[1] == pytest.approx(0.0)  # one cluster says nothing of the error


def answer(prompt, number, **more):
    return {
        "prompt_id": prompt, "prompt": said("why?", "user"), "source": "s", "source_id": "1",
        "response_id": f"r{number}", "response": said("because"), "model": "m", "origin": "self",
        **more,
    }  # fmt: skip


def test_responses_alone_are_compared_within_prompts_and_have_no_label(tmp_path):
    rows = [answer(f"p{i // 2}", i, score_x=float(i), score_y=float(-i)) for i in range(6)]
    save(tmp_path / "v" / "responses" / "train", rows)
    folder = version(tmp_path / "v")
    found = section_of(folder)
    assert (found.labelled, found.pairs, found.rows) == (False, 3, [])
    assert found.both[0]["conflict"] == 3
    page = build(folder)
    assert "3 pairs of answers to the same prompt" in page
    assert data_of(page)["accuracy"] == []
    assert "ECE" not in page


def test_one_objective_has_a_table_and_no_picture(tmp_path):
    row = pair(0, chosen_score_x=2.0, rejected_score_x=1.0)
    found = section_of(version(tmp_path / "v", {"train": [row]}))
    assert (len(found.rows), found.conflict, found.plot) == (1, None, None)


def test_unscored_pairs_have_no_section(tmp_path):
    page = build(version(tmp_path / "v", {"train": [pair(0)]}))
    assert 'id="agreement"' not in page


def test_contradictions_are_told(tmp_path):
    rows = []
    for i, (overall, aspect) in enumerate([(10.0, 5.0), (10.0, 1.0), (1.0, 1.0)]):
        side = {"score_overall": overall, "score_help": aspect, "score_honest": aspect}
        rows.append(
            pair(i, **{f"{s}_{k}": v for s in ("chosen", "rejected") for k, v in side.items()})
        )
    page = build(version(tmp_path / "v", {"train": rows}))
    assert "2 of 6 answers have a score of <code>overall</code>" in page


@given(places)
def test_the_front_is_what_nothing_dominates(points):
    def beaten(p):
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    assert pareto.front(points) == sorted({p for p in points if not beaten(p)})


def test_the_sample_is_the_first_rows_by_id_whatever_their_order(tmp_path):
    rows = [pair(i, chosen_score_x=float(i), rejected_score_x=-float(i)) for i in range(9)]
    found = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        saved = read.tables(version(tmp_path / name, {"train": order}))[Shape.PAIRS]
        found.append(pareto.read(saved, ["x"], 9, most=4))
    assert found[0] == found[1]
    assert found[0].sides["chosen"] == [[0.0, 1.0, 2.0, 3.0]]
    assert (found[0].rows, found[0].of) == (4, 9)


def test_the_plot_marks_sides_and_front():
    sides = {
        "chosen": [[1.0, 2.0, None], [2.0, 1.0, 1.0]],
        "rejected": [[1.0, 0.0, 5.0], [2.0, 0.0, 5.0]],
    }
    points = pareto.Points(("a", "<b>"), sides, 3, 3)
    drawn = pareto.plot(points, 0, 1)
    assert drawn.count("mark chosen") == 2
    assert drawn.count("mark rejected") == 3
    assert drawn.count(' ahead"') == 1
    assert "rejected at 5, 5, on the front" in drawn
    assert "<b>" not in drawn
    told = pareto.sentence(points, 0, 1)
    assert told.startswith("1 of 5 answers lie on the Pareto front (0 chosen, 1 rejected).")
    assert (
        "Of 2 pairs the chosen answer is ahead on one and not behind on the other in 50.0%" in told
    )
    assert pareto.front_rows(points, 0, 1) == [("5.000", "5.000", "1 rejected")]


@pytest.mark.parametrize(
    "values", [[], [3.0], [1e16, 1e16 + 2], [-1e299, 1e299], [0.0, 5e-324], [1e300, 1e300]]
)
def test_any_axis_has_room_and_few_ticks(values):
    axis = pareto.Axis.of(values)
    assert axis.low < axis.high
    assert len(axis.ticks) < 12
    assert all(0 <= axis.position(v) <= 1 for v in values)


def test_a_heatmap_is_symmetric_and_cuts_long_names():
    long = "a very long objective name <i>"
    drawn = heatmap([long, "b"], {("b", long): Cell("12", "h-2", "tip & all")}, "words", "")
    assert drawn.count(">12<") == 2
    assert "tip &amp; all" in drawn
    assert "a very long objecti…" in drawn
    assert "<i>" not in drawn


VOTE = pl.Struct(
    {"judge": pl.Int64, "round": pl.Int64, "place": pl.Int64, "answer": pl.Int64}
    | {"weight": pl.Float64, "fault": pl.String}
)


def vote(judge, number, place, answer, fault=None):
    return {"judge": judge, "round": number, "place": place, "answer": answer} | {
        "weight": 1.0, "fault": fault,
    }  # fmt: skip


def test_votes_on_pairs_are_reported(tmp_path):
    rows = []
    for i in range(4):  # judge 0 always names the first place, judge 1 always the first answer
        votes = [vote(0, 0, 0, 0), vote(0, 1, 0, 1), vote(1, 0, 0, 0), vote(1, 1, 1, 0)]
        votes += [vote(1, 2, None, None, "<unparsed>")] if i == 0 else []
        columns = {"judge_question": f"q{i}", "judge_answers": 2, "judge_votes": votes}
        rows.append(pair(i, **columns, judge_prefers="chosen"))
    folder = tmp_path / "v"
    types = {"judge_votes": pl.List(VOTE), "rejected_model": pl.String}
    save(folder / "pairs" / "train", rows, types)
    page = build(version(folder))
    assert '<a href="#judges">' in page
    assert "<dt>valid votes</dt><dd>16 of 17</dd>" in page
    assert "&lt;unparsed&gt; 1" in page
    row = re.search(r"judge 0</th>(.*?)</tr>", page)[1]
    assert "100.0% (" in row  # of its votes for the first place
    assert "unbiased 50.0%" in row
    assert "<dt>agree with the label where they decide</dt>" in page


def test_pairs_without_votes_have_no_judges(tmp_path):
    page = build(version(tmp_path / "v", {"train": [pair(0, judge_votes=None)]}))
    assert 'id="judges"' not in page


def test_a_stage_that_judged_speaks_for_all_its_questions(tmp_path):
    """What was kept flatters a judge: one pair of three is published, that on which it agreed."""
    columns = {"judge_question": "q0", "judge_answers": 2, "judge_prefers": "chosen"}
    rows = [pair(0, **columns, judge_votes=[vote(0, 0, 0, 0), vote(0, 1, 1, 0)])]
    votes = pl.DataFrame(
        [
            {"question": f"q{i}", "answers": 2, **v}
            for i, cast in enumerate([[(0, 0), (1, 0)], [(0, 0), (0, 1)], [(0, 0), (0, 1)]])
            for v in (vote(0, n, place, answer) for n, (place, answer) in enumerate(cast))
        ]
    )
    told = {"name": "judge", "models": ["<m>"], **vote_report(votes)}
    stage = {"label": "labelers.JudgePairs", "kind": "labeler", "rows_in": 3, "rows_out": 3}
    folder = tmp_path / "v"
    save(folder / "pairs" / "train", rows, {"judge_votes": pl.List(VOTE)})
    plain = build(version(folder))
    assert "Only the questions of the pairs that are published" in plain
    assert "<dt>self-consistency</dt><dd>100.0%" in plain
    page = build(version(folder, stages=[{**stage, "info": told}]))
    assert "All questions that were asked, also those of pairs that left." in page
    assert "<dt>questions</dt><dd>3</dd>" in page
    assert "<dt>self-consistency</dt><dd>33.3%" in page
    assert page.count("<h3>judge</h3>") == 1


def test_judges_of_a_jury_have_their_models(tmp_path):
    votes = [vote(judge, n, n, 0) for judge in (0, 1) for n in (0, 1)]
    table = pl.DataFrame([{"question": "q", "answers": 2, **v} for v in votes])
    info = {"name": "judge", "models": ["<big>", "small"], **vote_report(table)}
    stage = {"label": "labelers.Judge", "kind": "generator", "rows_out": 1, "info": info}
    page = build(version(tmp_path / "v", {"train": [pair(0)]}, stages=[stage]))
    assert ">judge 0, &lt;big&gt;</th>" in page
    assert ">judge 1, small</th>" in page


def test_rows_without_a_label_stand_with_their_stage(tmp_path):
    stage = {"label": "labelers.Rubric", "kind": "labeler", "rows_in": 9, "rows_out": 9}
    stage["notes"] = {"unparseable": 7, "<b>": 1}
    page = build(version(tmp_path / "v", {"train": [pair(0)]}, stages=[stage]))
    told = "stayed without a label: <code>unparseable</code> 7, <code>&lt;b&gt;</code> 1</p>"
    assert told in page
