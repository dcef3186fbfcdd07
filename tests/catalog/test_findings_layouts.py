"""The usual layouts of preference data: each file gives the pairs, sides and scores that are right.

`findings/` holds small copies of files; records of public sets stand here as they are published.
"""

import json
import shlex
from pathlib import Path

import pytest

from catalog.sources import LAYOUTS, SourceSpec, open_source, peek
from catalog.sources.detect import NotKnownError
from catalog.sources.layouts.page import written
from prefactory.errors import DataError
from prefactory.tables import Shape

FOLDER = Path(__file__).parent / "findings"
GOOD = {
    "How do I keep basil alive indoors?": (
        "Give it six hours of light and water when the top soil is dry."
    ),
    "What does a carburettor do?": "It mixes air and fuel in the ratio that the engine needs.",
    "Name two rivers in Poland.": "The Vistula and the Oder.",
    "Why is the sky red at dusk?": "Long paths through air scatter the blue light away.",
}
"""Question -> the answer that is better in every file."""


def said(messages):
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def look(path, **spec):
    seen = peek(SourceSpec(path=str(path), **spec), 1000)
    return seen, seen.rows.to_dicts()


def wrote(tmp_path, *records, name="data.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n")
    return path


PAIRS = {
    "L04_sharegpt_ranking": ("pairs-chat", 4),
    "L04b_openai_ranking": ("pairs-chat", 4),
    "L04c_messages_prompt_lists": ("pairs-chat", 4),
    "L04d_prompt_list_chosen_object": ("pairs", 4),
    "L05_swift_rejected_response": ("pairs-answered", 4),
    "L05b_query_response_rejected": ("pairs-text", 4),
    "L05c_chosen_response_names": ("pairs-text", 4),
    "L05d_medicalgpt": ("pairs-text", 4),
    "L06_openai_preference": ("pairs-chat", 4),
    "L21_chosen_list_of_strings": ("pairs-lists", 4),
    "L21b_many_rejected": ("pairs-lists", 12),
    "L21c_upper_case": ("pairs-text", 4),
    "L21d_output_pair_list": ("pairs-output", 4),
    "L21f_reward_bench": ("pairs-text", 4),
    "L21g_reward_bench2": ("pairs-lists", 12),
    "L21m_argilla_orca": ("pairs-text", 4),
    "U02_a1_a2_label": ("ukp-convarg", 4),
    "U06_text_chosen_lists": ("pairs-implicit", 4),
    "U07_two_scores_in_text": ("reviews", 4),
    "U09_good_bad_res": ("pairs-text", 4),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_have_the_better_answer_as_chosen(name):
    layout, n_rows = PAIRS[name]
    seen, rows = look(FOLDER / f"{name}.jsonl")
    assert (seen.layout, seen.shape, len(rows)) == (layout, Shape.PAIRS, n_rows)
    assert (seen.n_rows, seen.rejected) == (n_rows, {})
    for row in rows:
        asked = row["prompt"][-1]
        assert asked["role"] == "user"
        good = GOOD[asked["content"]]
        assert said(row["chosen"]) == f"assistant: {good}"
        assert row["rejected"][0]["content"] != good
    assert len({r["prompt_id"] for r in rows}) == 4


def test_the_sides_of_lists_are_every_right_one_with_every_wrong_one(tmp_path):
    path = wrote(tmp_path, {"prompt": "q", "chosen": ["1", "2"], "rejected": ["3", "4", ""]})
    seen, rows = look(path)
    found = {(said(r["chosen"])[-1], said(r["rejected"])[-1], r["source_id"]) for r in rows}
    assert found == {
        ("1", "3", "data.jsonl:1#1.1"),
        ("1", "4", "data.jsonl:1#1.2"),
        ("2", "3", "data.jsonl:1#2.1"),
        ("2", "4", "data.jsonl:1#2.2"),
    }
    assert (seen.n_records, seen.rejected) == (6, {"empty_answer": 2})
    odd = wrote(tmp_path, {"prompt": "q", "chosen": "1", "rejected": ["2"]},
                {"prompt": "q", "chosen": "1", "rejected": [["3", 4]]},
                {"prompt": "r", "chosen": "1", "rejected": ["2"]},
                {"prompt": "q", "chosen": "1", "rejected": []}, name="odd.jsonl")  # fmt: skip
    assert look(odd)[0].rejected == {"wrong_type": 1, "missing_field": 1}


NAMES = [
    ("instruction", "accepted", "rejected"),
    ("prompt", "win", "lose"),
    ("prompt", "winner_response", "loser_response"),
    ("query", "pos", "neg"),
    ("question", "positive", "negative"),
    ("question", "good_answer", "bad_answer"),
    ("prompt", "preferred", "dispreferred"),
    ("input", "preferred_output", "non_preferred_output"),
    ("prompt", "better_response", "worse_response"),
    ("question", "response_j", "response_k"),
    ("Question", "Best Answer", "Best Incorrect Answer"),
    ("prompt", "chosenResponse", "rejectedResponse"),
    ("PROMPT", "CHOSEN", "REJECTED"),
    ("prompt", "y_w", "y_l"),
    ("query", "response", "rejected_response"),
]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_many_names_of_the_two_sides(tmp_path, names):
    records = [dict(zip(names, (q, good, "No."), strict=True)) for q, good in GOOD.items()]
    seen, rows = look(wrote(tmp_path, *records))
    assert (seen.shape, seen.rejected, len(rows)) == (Shape.PAIRS, {}, 4)
    assert {(r["prompt"][0]["content"], r["chosen"][0]["content"]) for r in rows} == {*GOOD.items()}


def test_a_chat_that_holds_the_chosen_answer_and_a_rejected_conversation(tmp_path):
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    yes, no = ({"role": "assistant", "content": t} for t in ("yes", "no"))
    record = {"messages": [*chat, yes], "rejected_messages": [*chat, no]}
    seen, rows = look(wrote(tmp_path, record))
    assert seen.layout == "pairs-answered"
    assert (rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"]) == (chat, [yes], [no])


def test_answers_of_rm_bench_have_the_styles_of_their_places(tmp_path):
    record = {
        "id": "chat_1", "prompt": "q", "domain": "chat",
        "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"],
    }  # fmt: skip
    seen, rows = look(wrote(tmp_path, record, {**record, "id": "m", "domain": "safety-refuse"}))
    assert (seen.layout, len(rows)) == ("rm-bench", 18)
    styles = {"concise": "0", "detailed": "1", "markdown": "2"}
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[side][0]["content"][-1] == styles[row[f"{side}_style"]]
    assert {row["domain"] for row in rows} == {"chat", "safety-refuse"}
    other, _ = look(wrote(tmp_path, {**record, "domain": "poems"}, name="other.jsonl"))
    assert other.layout == "pairs-lists"


def test_tools_of_openai_preference_travel_with_the_prompt(tmp_path):
    record = json.loads((FOLDER / "L06_openai_preference.jsonl").read_text().splitlines()[0])
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    record["input"]["tools"] = [tool]
    _, rows = look(wrote(tmp_path, record))
    assert json.loads(rows[0]["tools"])[0]["function"]["name"] == "f"


SCORED = {
    "L21e_ranked_responses": ("score_rank", 12, {-1.0: GOOD}),
    "L21i_nectar": ("score_rank", 8, {-1.0: GOOD}),
    "L21l_distilabel": ("score_overall", 8, {5.0: GOOD}),
}


@pytest.mark.parametrize("name", SCORED)
def test_lists_of_answers_have_one_row_for_each(name):
    score, n_rows, _ = SCORED[name]
    seen, rows = look(FOLDER / f"{name}.jsonl")
    assert (seen.layout, seen.shape, seen.rejected) == ("answers", Shape.RESPONSES, {})
    assert len(rows) == n_rows
    for prompt, good in GOOD.items():
        mine = {r[score]: r for r in rows if r["prompt"][-1]["content"] == prompt}
        assert said(mine[max(mine)]["response"]) == f"assistant: {good}"
        assert len(mine) == n_rows / 4
    if name != "L21e_ranked_responses":
        assert {r["model"] for r in rows} == {"x", "y"}


def test_grades_of_another_length_are_refused_and_null_grades_stay_null(tmp_path):
    path = wrote(
        tmp_path,
        {"prompt": "q", "responses": ["1", "2"], "scores": [1, None]},
        {"prompt": "q", "responses": ["1", "2"], "scores": [1]},
        {"prompt": "q", "responses": [], "scores": []},
        {"prompt": "r", "responses": ["1", "2"], "scores": ["0.5", "2"]},
    )
    seen, rows = look(path)
    assert [r["score_overall"] for r in rows] == [1.0, None, 0.5, 2.0]
    assert seen.rejected == {"wrong_type": 2, "missing_field": 1}


def test_completions_with_a_rank_in_the_objects(tmp_path):
    answer = [{"role": "assistant", "content": "yes"}]
    record = {
        "context": [{"role": "user", "content": "q"}],
        "completions": [
            {"rank": 0, "completion": answer},
            {"rank": 1, "completion": [{"role": "assistant", "content": "no"}]},
        ],
    }
    _, rows = look(wrote(tmp_path, record))
    assert [(said(r["response"]), r["score_rank"]) for r in rows] == [
        ("assistant: yes", 0.0),
        ("assistant: no", -1.0),
    ]


# -- two answers and a verdict -----


def test_known_verdicts():
    _, rows = look(FOLDER / "L22m_pku.jsonl")
    assert [said(r["chosen"])[:14] for r in rows] == ["assistant: Yes"] * 4
    assert {r["safety_prefers"] for r in rows} == {"rejected"}
    assert {r["chosen_score_safe"] for r in rows} == {1.0}
    seen, rows = look(FOLDER / "L21j_shp.jsonl")
    labels = [json.loads(line) for line in (FOLDER / "L21j_shp.jsonl").open()]
    right = [r["human_ref_A"] if r["labels"] else r["human_ref_B"] for r in labels]
    assert [r["chosen"][0]["content"] for r in rows] == right
    assert (seen.layout, rows[0]["chosen_score_overall"]) == ("shp", 2.0)
    assert {r["label_source"] for r in rows} == {"human"}


@pytest.mark.parametrize(
    ("record", "chosen"),
    [
        ({"prompt": "q", "response_a": "1", "response_b": "2", "winner": "model_b"}, "2"),
        ({"prompt": "q", "response_a": "1", "response_b": "2", "winner": "tie"}, None),
        ({"prompt": "q", "answer_0": "1", "answer_1": "2", "score_0": -1, "score_1": 1}, "2"),
        ({"prompt": "q", "response_1": "1", "response_2": "2", "rating_1": 4, "rating_2": 3}, "1"),
        (
            {
                "info": {"post": "q"},
                "summaries": [{"text": "1", "policy": "m"}, {"text": "2", "policy": "n"}],
                "choice": 1,
            },
            "2",
        ),
        (
            {
                "orig_instruction": "q",
                "orig_response_A": "1",
                "orig_response_B": "2",
                "orig_preference": "B",
            },
            "2",
        ),
        ({"question": "q", "answer1": "1", "answer2": "2", "review": "7, 9.5\nWhy"}, "2"),
        ({"input": "q", "targets": {"choices": ["1", "2"], "labels": [0, 1]}}, "2"),
        ({"input": "q", "target_scores": {"1": 1, "2": 0}}, "1"),
    ],
)
def test_more_known_verdicts(tmp_path, record, chosen):
    filler = {**record, "winner": "model_a"} if "winner" in record else record
    seen, rows = look(wrote(tmp_path, record, filler))
    mine = [r for r in rows if r["source_id"].split("#")[0].endswith(":1")]
    if chosen is None:
        assert (mine, seen.rejected) == ([], {"tie": 1})
    else:
        assert [r["chosen"][0]["content"] for r in mine] == [chosen]
        assert mine[0]["prompt"][0]["content"] == "q"


GUESSED = [
    ("U01_ab_table.csv", {"A": "a", "B": "b"}),
    ("L22l_preference_a_b.jsonl", {"a": "a", "b": "b"}),
]


@pytest.mark.parametrize(("name", "values"), GUESSED)
def test_a_guess_is_shown_and_the_command_that_it_shows_reads_right(name, values):
    with pytest.raises(NotKnownError, match="is a guess") as error:
        open_source(SourceSpec(path=str(FOLDER / name)))
    assert dict(error.value.guess.values) == values
    words = shlex.split(str(error.value).partition("--dry-run ")[2].partition(" (in a recipe")[0])
    mapping = dict(w.split("=", 1) for w in words if "=" in w and "," not in w)
    meant = dict(p.split("=") for p in words[words.index("--values") + 1].split(","))
    seen, rows = look(FOLDER / name, layout="ab", mapping=mapping, values=meant)
    assert (seen.layout, seen.n_rows, seen.rejected) == ("ab", 4, {})
    for row in rows:
        text = row["chosen"][0]["content"]
        assert text == GOOD[row["prompt"][0]["content"]] or text.startswith("Yes ")


def ab(first, second, verdict, *values):
    return [{"question": "q", first: f"one {i}", second: f"two {i}", verdict: v}
            for i, v in enumerate(values)]  # fmt: skip


@pytest.mark.parametrize(
    ("records", "values"),
    [
        (ab("answer_1", "answer_2", "winner", 1, 2, 1), {"1": "a", "2": "b"}),
        (ab("answer_a", "answer_b", "label", 0, 1, 1), {"0": "?", "1": "?"}),
        (ab("text_0", "text_1", "label", 0, 1, 1), {"0": "a", "1": "b"}),
        (
            ab("output_1", "output_2", "preference", "output_1", "output_2", "tie"),
            {"output_1": "a", "output_2": "b", "tie": "tie"},
        ),
        (ab("left_text", "right_text", "choice", "right", "left", "Tie"),
         {"right": "b", "left": "a", "Tie": "tie"}),
        (ab("answer_a", "answer_b", "worse", "a", "b", "a"), {"a": "?", "b": "?"}),
        (ab("answer_a", "answer_b", "verdict_text", "A is better", "B is better", "both bad"),
         {"A is better": "a", "B is better": "b", "both bad": "tie"}),
        (ab("answer_a", "answer_b", "better", True, False, True), {"true": "?", "false": "?"}),
    ],
)  # fmt: skip
def test_a_value_that_does_not_say_itself_what_it_means_is_asked_for(tmp_path, records, values):
    path = wrote(tmp_path, *records)
    with pytest.raises(NotKnownError) as error:
        open_source(SourceSpec(path=str(path)))
    assert dict(error.value.guess.values) == values
    assert "chosen=" not in str(error.value)


def test_calling_the_answers_chosen_and_rejected_by_their_place_is_refused():
    mapping = {"prompt": "question", "chosen": "answer_a", "rejected": "answer_b"}
    path = str(FOLDER / "U01_ab_table.csv")
    with pytest.raises(NotKnownError, match="the better answer of every record"):
        open_source(SourceSpec(path=path, mapping=mapping))
    assert open_source(SourceSpec(path=path, mapping=mapping, ignore=("preferred",))).files


def test_values_are_needed_for_ab_and_understood_as_they_are_written(tmp_path):
    path = wrote(tmp_path, *ab("x", "y", "v", 1, 0, 0.5, None, "odd"))
    mapping = {"prompt": "question", "a": "x", "b": "y", "verdict": "v"}
    with pytest.raises(NotKnownError, match=r"--values '?1=\?"):
        open_source(SourceSpec(path=str(path), layout="ab", mapping=mapping))
    values = {1: "a", "0": "b", 0.5: "tie"}
    seen, rows = look(path, mapping=mapping, values=values)
    assert [r["chosen"][0]["content"] for r in rows] == ["one 0", "two 1"]
    assert seen.rejected == {"tie": 1, "missing_label": 1, "wrong_type": 1}
    assert seen.examples["wrong_type"] == "data.jsonl:5: v is 'odd', none of 1, 0, 0.5"
    one, two = (open_source(SourceSpec(path=str(path), mapping=mapping, values=v))
                for v in (values, {**values, 1: "b"}))  # fmt: skip
    assert one.identity() != two.identity()
    with pytest.raises(ValueError, match="'a', 'b' or 'tie'"):
        SourceSpec(path="x", values={"1": "first"})
    with pytest.raises(DataError, match="reads none"):
        look(FOLDER / "L21c_upper_case.jsonl", values={"1": "a"})


def test_no_row_at_all_is_refused_with_the_value_that_was_not_understood():
    mapping = {"prompt": "question", "a": "answer_a", "b": "answer_b", "verdict": "preferred"}
    seen, _ = look(FOLDER / "U01_ab_table.csv", mapping=mapping, values={"X": "a"})
    with pytest.raises(DataError, match=r"U01_ab_table.csv:2: preferred is 'A', none of X"):
        seen.some()
    llmbar = {"instruction": "topic", "response_a": "a1", "response_b": "a2", "verdict": "label"}
    seen, _ = look(FOLDER / "U02_a1_a2_label.jsonl", layout="llmbar", mapping=llmbar)
    with pytest.raises(DataError, match=r"jsonl:1: verdict \(label\) is not number: 'a1'"):
        seen.some()


def test_an_odd_file_of_a_folder_is_named():
    with pytest.raises(DataError, match=r"odd.csv is of another form"):
        look(FOLDER / "odd_folder")


# -- steps -----


def test_steps_carry_their_labels():
    seen, rows = look(FOLDER / "L21h_stepwise.jsonl")
    assert (seen.layout, seen.shape, len(rows)) == ("steps", Shape.RESPONSES, 4)
    for row in rows:
        good = GOOD[row["prompt"][0]["content"]]
        assert (row["steps"][0], row["step_labels"]) == (good, [1.0, 0.0])
        assert row["response"][0]["content"] == "\n".join(row["steps"])
        assert row["score_steps"] == 0.0


def test_math_shepherd(tmp_path):
    steps = ["Step 1: 3 - 1 = 2.", "Step 2: 2 + 2 = 5.", "Step 3: The answer is: 5"]
    asked = "Ann has 3 + 1 - 2 apples?"
    record = {
        "input": asked + " " + " ки\n".join(steps) + " ки",
        "label": asked + " " + f"{steps[0]} +\n{steps[1]} -\n{steps[2]} -",
        "task": "GSM8K",
    }
    seen, rows = look(wrote(tmp_path, record))
    assert (seen.layout, seen.rejected) == ("math-shepherd", {})
    row = rows[0]
    assert row["prompt"] == [{"role": "user", "content": asked}]
    assert (row["steps"], row["step_labels"]) == (steps, [1.0, 0.0, 0.0])
    assert (row["score_steps"], row["task"]) == (0.0, "GSM8K")


def test_prm800k_gives_the_followed_solution_and_each_other_completion(tmp_path):
    def step(chosen, *rated, human=None):
        completions = [{"text": t, "rating": r, "flagged": None} for t, r in rated]
        return {
            "completions": completions or None,
            "human_completion": human,
            "chosen_completion": chosen,
        }

    record = {
        "labeler": "x",
        "question": {"problem": "2 + 2?", "ground_truth_answer": "4"},
        "label": {
            "steps": [
                step(1, ("a-", -1), ("a+", 1)),
                step(None, ("b-", -1), human={"text": "b!", "rating": None}),
                step(None, ("c-", -1), ("d-", -1)),
            ],
            "finish_reason": "found_error",
        },
    }
    seen, rows = look(wrote(tmp_path, record, record))
    assert (seen.layout, seen.n_records, seen.rejected) == ("prm800k", 8, {})
    found = {r["source_id"].split(":")[1]: (r["steps"], r["step_labels"]) for r in rows[:4]}
    assert found == {
        "1#0": (["a+", "b!", "c-"], [1.0, 1.0, -1.0]),
        "1#1.1": (["a-"], [-1.0]),
        "1#2.1": (["a+", "b-"], [1.0, -1.0]),
        "1#3.2": (["a+", "b!", "d-"], [1.0, 1.0, -1.0]),
    }
    assert rows[0]["prompt"] == [{"role": "user", "content": "2 + 2?"}]


def test_the_first_error(tmp_path):
    steps = ["a", "b", "c"]
    records = [{"problem": "q", "steps": steps, "label": k} for k in (-1, 0, 1, 3)]
    seen, rows = look(wrote(tmp_path, *records))
    assert [(r["step_labels"], r["score_steps"]) for r in rows] == [
        ([1.0, 1.0, 1.0], 1.0),
        ([0.0], 0.0),
        ([1.0, 0.0], 0.0),
    ]
    assert seen.rejected == {"wrong_type": 1}


# -- other public sets -----


def test_questions_with_turns_are_prompts():
    seen, rows = look(FOLDER / "U10_question_turns.jsonl")
    assert (seen.layout, seen.shape, len(rows)) == ("questions", Shape.PROMPTS, 4)
    assert {said(r["prompt"]) for r in rows} == {f"user: {q}" for q in GOOD}
    assert rows[0]["later_turns"] == ["And in one sentence?"]


def test_qa_feedback(tmp_path):
    texts = {f"prediction {i}": f"answer {i}" for i in (1, 2, 3, 4)}
    record = {
        "question": "q?",
        "passages": [["Title", "One.", "Two."]],
        **texts,
        "preference": [1, 2, 0, 1, 1, 2],
    }
    seen, rows = look(wrote(tmp_path, record))
    assert (seen.layout, seen.rejected) == ("qa-feedback", {"tie": 1})
    pairs = [(r["chosen"][0]["content"][-1], r["rejected"][0]["content"][-1]) for r in rows]
    assert pairs == [("1", "2"), ("3", "1"), ("2", "3"), ("2", "4"), ("4", "3")]
    assert rows[0]["prompt"][0]["content"] == "q?\n\nTitle\nOne.\nTwo."
    assert [r["source_id"].split("#")[1] for r in rows] == ["1.2", "1.3", "2.3", "2.4", "3.4"]


def test_answers_under_keys(tmp_path):
    record = {"query": "q", "responses": {"formal": "1", "rude": "2", "none": None}}
    seen, rows = look(wrote(tmp_path, record))
    assert [(said(r["response"]), r["response_key"]) for r in rows] == [
        ("assistant: 1", "formal"),
        ("assistant: 2", "rude"),
    ]
    assert seen.rejected == {"missing_field": 1}


def test_rewards_of_map_cut_the_prompt_from_the_text(tmp_path):
    record = {"prompt": "How?", "generated": "How?\n\nSo.", "humor": -1.5, "gpt2-helpful": 2}
    seen, rows = look(wrote(tmp_path, record, {**record, "generated": "No."}))
    assert seen.layout == "map-rewards"
    assert [said(r["response"]) for r in rows] == ["assistant: So.", "assistant: No."]
    assert (rows[0]["score_humor"], rows[0]["score_gpt2_helpful"]) == (-1.5, 2.0)


def test_prometheus_is_unwrapped(tmp_path):
    wrapped = (
        "###Task Description:\nRate it.\n\n###The instruction to evaluate:\nWhy?\nSay.\n\n"
        "###Response to evaluate:\nBecause.\n\n###Reference Answer (Score 5):\nSo.\n\n"
        "###Score Rubrics:\n[Clear?]\nScore 1: no\n\n###Feedback: "
    )
    record = {
        "idx": 1,
        "response_source": "m",
        "instruction": wrapped,
        "gpt4_score": [4, 5, 4],
        "gpt4_feedback": ["x", "y", "z"],
    }
    seen, rows = look(wrote(tmp_path, record, {**record, "instruction": "nothing"}, record))
    assert (seen.layout, seen.rejected) == ("prometheus", {"malformed": 1})
    row = rows[0]
    assert (said(row["prompt"]), said(row["response"])) == (
        "user: Why?\nSay.",
        "assistant: Because.",
    )
    assert row["score_overall"] == pytest.approx(13 / 3)
    assert (row["scores"], row["model"]) == ([4.0, 5.0, 4.0], "m")
    assert (row["reference_answer"], row["rubric"]) == ("So.", "[Clear?]\nScore 1: no")


def test_scores_find_their_questions_and_answers(tmp_path):
    (tmp_path / "model_answer").mkdir()
    (tmp_path / "model_judgment").mkdir()
    wrote(tmp_path, {"question_id": 1, "turns": ["q1", "q2"]}, name="question.jsonl")
    wrote(
        tmp_path / "model_answer",
        {"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["a1", "a2"]}]},
        name="m.jsonl",
    )
    judged = [
        {"question_id": 1, "model": "m", "judgment": "[[9]]", "score": 9, "turn": 1},
        {"question_id": 1, "model": "m", "judgment": "[[3]]", "score": 3, "turn": 2},
        {"question_id": 1, "model": "other", "judgment": "[[3]]", "score": 3, "turn": 1},
        {"question_id": 1, "model": "m", "judgment": "?", "score": -1, "turn": 1},
    ]
    seen, rows = look(wrote(tmp_path / "model_judgment", *judged, name="gpt-4_single.jsonl"))
    assert seen.layout == "scored-answers"
    assert [(said(r["prompt"]), said(r["response"]), r["score_overall"]) for r in rows] == [
        ("user: q1", "assistant: a1", 9.0),
        ("user: q1\nassistant: a1\nuser: q2", "assistant: a2", 3.0),
    ]
    assert seen.rejected == {"missing_field": 1, "missing_label": 1}


def test_solutions_and_rewritten_prompts(tmp_path):
    keys = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    record = {"question": "q", "ground_truth": "A: 4"} | {
        key: {"is_correct": k % 2 == 0, "solution": f"A: {k}"} for k, key in enumerate(keys)
    }
    seen, rows = look(wrote(tmp_path, record))
    assert [(r["model"], r["score_correct"]) for r in rows] == [
        (key, float(k % 2 == 0)) for k, key in enumerate(keys)
    ]
    record = {"prompt": "q", "optimized_prompt": "q!", "good_res": "1", "bad_res": "2"}
    seen, rows = look(wrote(tmp_path, record, name="bpo.jsonl"))
    assert (seen.layout, rows[0]["optimized_prompt"]) == ("bpo", "q!")
    statement = {
        "question": "Is this you?",
        "answer_matching_behavior": " Yes",
        "answer_not_matching_behavior": " No",
    }
    _, rows = look(wrote(tmp_path, statement, name="persona.jsonl"))
    assert said(rows[0]["chosen"]) == "assistant:  Yes"


EXAMPLES = [
    (form.name, form.example)
    for entry in LAYOUTS.values()
    for form in (entry, *entry.alternatives)
    if form.example
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_the_example_of_a_layout_is_read_with_it(tmp_path, name, example):
    if LAYOUTS[name].wants_questions:
        wrote(tmp_path, {"question_id": 81, "turns": ["Why?"]}, name="question.jsonl")
        answer = {"question_id": 81, "model_id": "m", "turns": ["Because."]}
        wrote(tmp_path, answer, name="answers.jsonl")
    asked = {"layout": "ab"} if name == "ab" else {}
    seen, rows = look(wrote(tmp_path, example, name="some.jsonl"), **asked)
    assert seen.layout == name
    assert rows


def test_every_layout_has_an_example():
    without = [name for name, entry in LAYOUTS.items() if not entry.example]
    assert without == ["prefactory"]  # its columns are those of `prefactory.tables`


def test_docs_tell_every_layout_with_its_columns_and_a_record():
    page = Path(__file__).parents[2] / "docs" / "sources.md"
    text = page.read_text("utf-8")
    assert written(text) == text, "run `python -m catalog.sources.layouts.page`"
    for name, entry in LAYOUTS.items():
        assert f"\n### {name}\n" in text
        assert json.dumps(entry.example, ensure_ascii=False) in text or name == "prefactory"
