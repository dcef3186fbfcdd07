"""Files of the kinds that people report bugs about: each gives what is right, or is refused.

`findings/` holds small copies. A case says what must come out: `layout`, `rows` (how many),
`rejected` and `notes` (reason -> records), `first` (columns of the first row; a conversation as
`role: text` lines), or `refused` (what the one sentence says); `spec` are fields of the source.
"""

from pathlib import Path

import pytest

from catalog.sources import SourceSpec, peek
from prefactory.errors import DataError

FOLDER = Path(__file__).parent / "findings"
BASIL = "How do I keep basil alive indoors?"
SIX_HOURS = "Give it six hours of light and water when the top soil is dry."
NO_BASIL = "assistant: Basil is a plant."
SAILOR = "system: You answer like a sailor."
ASKED = f"user: {BASIL}"
READ = {"rejected": {}, "notes": {}}
KTO = {"layout": "kto", "rows": 8, **READ}

CASES = [
    # -- columns of the prompt -----
    (
        "L01_system_column.jsonl",
        {
            "layout": "pairs-text",
            "rows": 4,
            **READ,
            "first": {
                "prompt": ["system: You answer in one sentence, for a child of six.", ASKED],
                "chosen": [f"assistant: {SIX_HOURS}"],
                "rejected": ["assistant: Basil is a plant."],
            },
        },
    ),
    (
        "L02_system_input.jsonl",
        {"rows": 4, **READ, "first": {"prompt": ["system: You are terse.", ASKED]}},
    ),
    (
        "L03_alpaca_input_pairs.jsonl",
        {
            "rows": 4,
            "prompts": 4,
            **READ,
            "first": {
                "prompt": [
                    f"user: Summarise the text in one line.\n\nText 0: {SIX_HOURS * 3}",
                ]
            },
        },
    ),
    ("K01_kto_system.jsonl", {"layout": "kto", "first": {"prompt": [SAILOR, ASKED]}}),
    ("K02_alpaca_system.jsonl", {"layout": "alpaca", "first": {"prompt": [SAILOR, ASKED]}}),
    ("K03_responses_system_prompt.jsonl", {"rows": 4, "first": {"prompt": [SAILOR, ASKED]}}),
    ("K04_messages_system.jsonl", {"layout": "messages", "first": {"prompt": [SAILOR, ASKED]}}),
    ("K05_mixed_system.jsonl", {"layout": "pairs-mixed", "first": {"prompt": [SAILOR, ASKED]}}),
    ("K06_implicit_system.jsonl", {"rows": 4, "first": {"prompt": [SAILOR, ASKED]}}),
    (
        "K07_helpsteer_system.jsonl",
        {"first": {"prompt": [SAILOR, ASKED], "score_helpfulness": 3.0}},
    ),
    (
        "K09_query_history.jsonl",
        {"rows": 4, "first": {"prompt": ["user: Hi", "assistant: Hello", ASKED]}},
    ),
    ("K10_judged_system.jsonl", {"first": {"prompt": [SAILOR, ASKED], "margin": 2.0}}),
    (
        "K11_alpaca_eval_context.jsonl",
        {"first": {"prompt": [f"{ASKED}\n\nText ?sroodni evila lisab peek I od woH"]}},
    ),
    (
        "K12_documents_column.jsonl",
        {"first": {"prompt": [f"{ASKED}\n\nDoc ?sroodni evila lisab peek I od woH"]}},
    ),
    ("K13_prefix_column.jsonl", {"refused": "'prompt_prefix' .*--map system=prompt_prefix"}),
    (
        "K13_prefix_column.jsonl",
        {
            "spec": {"mapping": {"system": "prompt_prefix"}},
            "first": {"prompt": ["system: Be kind.", ASKED], "label_is_reliable": False},
            "not_read": {"weight": ""},
        },
    ),
    (
        "K13_prefix_column.jsonl",
        {
            "spec": {"ignore": ["prompt_prefix"], "carry": ["weight"]},
            "first": {"prompt": [ASKED], "weight": 0.1},
            "not_read": {"prompt_prefix": "ignored"},
        },
    ),
    ("A08_input_dropped.jsonl", {"rows": 8, "prompts": 8, **READ}),
    ("A17_system_column.jsonl", {"rows": 8, "roles": ["system", "user"], **READ}),
    ("D09_same_prompt_other_system.jsonl", {"rows": 5, "prompts": 5, **READ}),
    # -- labels -----
    ("L14a_str_kto_labels.jsonl", {**KTO, "first": {"score_label": 1.0}}),
    ("L14b_int_kto_labels.jsonl", {**KTO, "values": ("score_label", {0.0, 1.0})}),
    ("L14c_pm1_kto_labels.jsonl", {**KTO, "values": ("score_label", {0.0, 1.0})}),
    ("L14d_words_kto_labels.jsonl", {**KTO, "values": ("score_label", {0.0, 1.0})}),
    ("L14e_good_kto_labels.jsonl", {**KTO, "values": ("score_label", {0.0, 1.0})}),
    ("U08_judge_score_table.jsonl", {"rows": 8, "first": {"score_gpt4": 5.0}}),
    # -- types and texts that do not fit -----
    ("L12c_answer_number.jsonl", {"refused": "chosen holds numbers, not text or messages"}),
    ("U03_wrong_types.jsonl", {"refused": "rejected holds lists, not text or messages"}),
    ("L12_chosen_string_or_list.jsonl", {"rows": 4, **READ}),
    ("L10e_prompt_text_not_in_conversation.jsonl", {"rows": 4, "notes": {"prompt_differs": 4}}),
    ("L22d_weights_train_flags.jsonl", {"not_read": {"chosen[].weight": "a key of messages"}}),
    ("L13b_nan_scores.jsonl", {"rows": 4, "notes": {"not_finite": 4}}),
    ("inf.jsonl", {"rows": 8, "notes": {"not_finite": 2}}),
    ("L05_swift_rejected_response.jsonl", {"rows": 4, "first": {"rejected": [NO_BASIL]}}),
    ("L05b_query_response_rejected.jsonl", {"rows": 4, "first": {"rejected": [NO_BASIL]}}),
    # -- scores -----
    (
        "L12e_late_columns.jsonl",
        {
            "rows": 151,
            "values": ("chosen_score_overall", {None, 3.0}),
            "read": {"chosen_score": "chosen_score_overall"},
        },
    ),
    (
        "L13_scores.jsonl",
        {
            "rows": 4,
            "rejected": {},
            "notes": {"unread_value": 2},
            "values": ("rejected_score_overall", {None, 3.0, 2.0, -1.0}),
        },
    ),
    (
        "A05_scores_inverted.jsonl",
        {"rows": 8, "first": {"chosen_score_overall": 1.0, "rejected_score_overall": 8.0}},
    ),
]


def shown(value):
    """A conversation as `role: text` lines; other values as they are."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        return [f"{m['role']}: {m['content']}" for m in value]
    return value


@pytest.mark.parametrize(
    ("file", "right"), CASES, ids=[f"{f}-{i}" for i, (f, _) in enumerate(CASES)]
)
def test_a_file_gives_what_is_right(file, right):
    spec = SourceSpec(path=str(FOLDER / file), **right.get("spec", {}))
    if "refused" in right:
        with pytest.raises(DataError, match=right["refused"]):
            peek(spec)
        return
    seen = peek(spec, 1000)
    row = {name: shown(value) for name, value in seen.rows.row(0, named=True).items()}
    account = seen.account.to_dict()
    facts = {
        "layout": seen.layout,
        "rows": seen.n_rows,
        "prompts": seen.rows["prompt_id"].n_unique(),
        "rejected": dict(seen.rejected),
        "notes": dict(seen.notes),
        "roles": [m["role"] for m in seen.rows["prompt"][0]],
    }
    for key in right.keys() & facts.keys():
        assert facts[key] == right[key], key
    assert {name: row[name] for name in right.get("first", {})} == right.get("first", {})
    for part in right.keys() & account.keys():
        assert account[part].items() >= right[part].items()
    if "values" in right:
        column, values = right["values"]
        assert set(seen.rows[column]) == values
