# ruff: noqa: RUF001 - Chinese punctuation
import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from filters.contamination.benchmarks import benchmark, read_benchmark
from filters.contamination.ngrams import NgramIndex
from filters.contamination.step import Decontaminate, neighbours
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from tests.helpers import (
    assistant,
    digest,
    ledger_of,
    messages,
    one_file,
    pairs,
    prompts,
    recipe,
    responses,
    run,
    user,
    view,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")

TRAIN = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. "
    "How many bolts in total does it take?"
)
OTHER_NUMBERS = TRAIN.replace("2 bolts", "7 bolts")
PARAPHRASE = (
    "For one robe you need two rolls of the blue cloth plus one half of this amount in white. "
    "What is the sum of rolls?"
)
SHORT = "Who wrote Hamlet?"


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.jsonl"
    rows = [{"question": TRAIN}, {"question": SHORT}, {"question": "Why?"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def judged(step, table, **ctx):
    ctx = Context(**ctx)
    parts = step.fit_shard(table, ctx)
    assert parts.columns[0] == "unit"
    state = step.fit(parts.sort("unit", maintain_order=True), ctx)
    answer = step.keep(table, Context(state=state))
    assert answer.columns == ["reason", "detail"]
    assert answer.height == table.height
    return answer.rows(), dict(state.info)


def reasons(step, table, **ctx):
    return [reason for reason, _ in judged(step, table, **ctx)[0]]


# -- known answers -----


def share(prompt, text):
    found = NgramIndex.build(pl.Series([prompt])).search(pl.Series([text]), least=0.0)
    return found["share"][0] if found.height else 0.0


def test_the_share_of_matched_words():
    assert share(TRAIN, TRAIN) == 1.0
    assert share(TRAIN, f"Please solve: {TRAIN.upper()}!! Thanks") == 1.0
    assert share(TRAIN, PARAPHRASE) == 0.0
    # of 22 words the fourth differs: the 18 behind it are in runs of eight, the 3 before it in none
    words = TRAIN.replace(".", "").replace("?", "").split()
    assert len(words) == 22
    assert share(TRAIN, OTHER_NUMBERS) == pytest.approx(18 / 22)


def test_changed_numbers_match_what_lies_between_them():
    words = [f"w{i}" for i in range(25)]
    changed = words.copy()
    changed[3], changed[22] = "7", "9"  # 3 + 18 + 2 words: only the 18 hold runs of eight
    assert share(" ".join(words), " ".join(changed)) == pytest.approx(0.72)
    changed[12] = "8"  # 8 and 9 are left
    assert share(" ".join(words), " ".join(changed)) == pytest.approx(17 / 25)
    changed[8] = "6"  # of the 8 none is left
    assert share(" ".join(words), " ".join(changed)) == pytest.approx(9 / 25)


def test_verbatim_changed_numbers_and_paraphrase(exam):
    table = responses((TRAIN, "3"), (OTHER_NUMBERS, "10"), (PARAPHRASE, "3"), ("What is up?", "Me"))
    rows, info = judged(Decontaminate(against=exam), table)
    assert [r for r, _ in rows] == ["contaminated", "contaminated", None, None]
    assert rows[0][1] == f"prompt: exam exam.jsonl:1, 22 of 22 words (1.00): {TRAIN[:-1]}"
    assert rows[1][1].startswith("prompt: exam exam.jsonl:1, 18 of 22 words (0.82): bolts of blue")
    assert info == {
        "rows": 2,
        "dirty": ["exam"],
        "exam": {"prompts": 3, "found": 1, "share": 0.3333, "by_prompt": 2},
    }


def test_the_share_must_exceed_the_limit(exam):
    table = responses((OTHER_NUMBERS, "10"))
    assert reasons(Decontaminate(against=exam, share=18 / 22), table) == [None]
    assert reasons(Decontaminate(against=exam, share=0.81), table) == ["contaminated"]


# -- short prompts -----


def test_short_prompts_match_whole_lines_only(exam):
    table = responses(
        ("who wrote hamlet", "S."),
        (f"{SHORT}\nA. Marlowe\nB. Bacon", "neither"),
        (f"Tell me: {SHORT}", "S."),
        ("why", "because"),
        ("Why is that?", "because"),
    )
    short = "contaminated_short"
    lines = Decontaminate(against=exam, short="line")
    assert reasons(lines, table) == [short, short, None, short, None]
    # three words are too few to be looked for inside of texts
    assert reasons(Decontaminate(against=exam), table) == [short, short, None, short, None]
    assert reasons(Decontaminate(against=exam, short="off"), table) == [None] * 5


def test_a_word_or_numbers_are_no_line(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text("4 | 3\nWhy?\nWhy not?\nWho did it?\n")
    short = "contaminated_short"
    table = responses(("a\n4, 3", "x"), ("a\nwhy", "x"), ("a\nwhy not", "x"), ("why", "x"))
    assert reasons(Decontaminate(against=str(path)), table) == [None, None, short, short]
    table = responses(("a", "4. 3"), ("a", "Why not?"), ("a", "So:\nwho did it"))
    assert reasons(Decontaminate(against=str(path)), table) == [None, None, short]


def test_five_words_are_found_inside_by_default(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text("Who composed the Moonlight Sonata?\n\n")
    table = responses(
        ("Do you know who composed the moonlight sonata, and when?", "B."),
        ("Who composed it, the Moonlight Sonata?", "B."),
    )
    assert reasons(Decontaminate(against=str(path), short="line"), table) == [None, None]
    found = judged(Decontaminate(against=str(path)), table)[0]
    assert found == [
        (
            "contaminated_short",
            "prompt: exam exam.txt:1, 5 of 5 words (1.00): who composed the moonlight sonata",
        ),
        (None, None),
    ]


def test_chinese_counts_characters(tmp_path):
    path = tmp_path / "zh.txt"
    path.write_text("一艘大船即将被淹没，车里有一个老人\n你好吗\n")
    table = responses(
        ("请看：一艘大船即将被淹没，车里有一个老人。怎么办？", "好"),
        ("你好吗？", "好"),
        ("你好", "吗"),
    )
    assert reasons(Decontaminate(against=str(path)), table) == [
        "contaminated",
        "contaminated_short",
        None,
    ]


# -- sides and shapes -----


def test_sides_of_pairs(exam):
    table = pairs(("a b", TRAIN, "no"), ("c d", "no", TRAIN), (TRAIN, "x", "y"), ("e", "f", "g"))
    assert reasons(Decontaminate(against=exam), table) == [
        "contaminated",
        None,
        "contaminated",
        None,
    ]
    details = [d for _, d in judged(Decontaminate(against=exam), table)[0]]
    assert details[0].startswith("chosen: exam")
    every = Decontaminate(against=exam, sides=("prompt", "chosen", "rejected"))
    assert reasons(every, table) == ["contaminated", "contaminated", "contaminated", None]
    info = judged(every, table)[1]["exam"]
    assert info == {
        "prompts": 3, "found": 1, "share": 0.3333, "by_chosen": 1, "by_prompt": 1, "by_rejected": 1,
    }  # fmt: skip
    only = Decontaminate(against=exam, sides=("rejected",))
    assert reasons(only, table) == [None, "contaminated", None, None]


def test_prompts_and_earlier_turns(exam):
    table = prompts("hello", TRAIN)
    assert reasons(Decontaminate(against=exam), table) == [None, "contaminated"]
    talk = [user(SHORT), assistant("Shakespeare."), user("Are you sure?")]
    table = table.with_columns(prompt=messages(talk, [user("fine")]))
    assert reasons(Decontaminate(against=exam), table) == ["contaminated_short", None]


def test_null_and_empty_texts(exam):
    table = responses(("", ""), ("x", "y"))
    table = table.with_columns(response=messages([], None))
    assert reasons(Decontaminate(against=exam), table) == [None, None]
    assert Decontaminate(against=exam).fit_shard(table.clear(), Context()).height == 0


def test_a_text_of_a_megabyte(exam):
    long = "some words that never end, " * 40_000 + TRAIN + " and more of them" * 1000
    rows, _ = judged(Decontaminate(against=exam), responses(("q", long)))
    assert rows[0][0] == "contaminated"
    assert rows[0][1].endswith(TRAIN[:-1])


# -- neighbours -----


def vectors(encoder, texts):
    """A stand-in for an encoder: robes look one way, all else differs."""
    table = {TRAIN: [1.0, 0.0], PARAPHRASE: [0.9, 0.3]}
    return np.array([table.get(t, [0.0, 1.0 + len(t)]) for t in texts], dtype=np.float32)


def test_neighbours_by_embedding(exam):
    table = responses((PARAPHRASE, "3"), (TRAIN, "3"), ("something else", "x"))
    step = Decontaminate(against=exam, encoder={}, similarity=0.94)
    step = step.model_copy(update={"short": "off"})
    rows, info = judged(step, table, embed=vectors)
    assert rows[0][0] == "contaminated_similar"
    assert rows[0][1].startswith("prompt: exam exam.jsonl:1, cosine 0.949: For one robe you need")
    assert rows[1][0] == "contaminated"  # a match of words goes before
    assert reasons(Decontaminate(against=exam, encoder={}, similarity=0.95), table[:1],
                   embed=vectors) == [None]  # fmt: skip
    assert info["exam"]["found"] == 3  # "something else" has the direction of the short prompts


def test_neighbours_do_not_depend_on_the_block():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5000, 300))
    theirs[0] = 0
    whole = neighbours(ours, theirs, 0.9)
    wide = ours.astype(np.float64) / np.linalg.norm(ours.astype(np.float64), axis=1)[:, None]
    norm = np.linalg.norm(theirs.astype(np.float64), axis=1)[:, None]
    unit = np.divide(theirs, norm, where=norm > 0, out=np.zeros((300, 8)))
    assert whole.height == int((wide @ unit.T >= 0.9).sum()) > 0
    parts = [
        neighbours(ours[i : i + 777], theirs, 0.9).with_columns(pl.col("text") + i)
        for i in range(0, 5000, 777)
    ]
    assert pl.concat(parts).equals(whole)
    assert neighbours(ours[:0], theirs, 0.9).height == 0


# -- benchmarks -----


def test_benchmarks_are_named_and_found_by_file_and_line(tmp_path, exam):
    csv = tmp_path / "exam.csv"  # no header: the first column holds the questions
    csv.write_text(f'"{TRAIN}",A,B\n"Which of these animals lays its eggs in the hot sand?",C,D\n')
    with pytest.raises(ConfigError, match="two benchmarks are called 'exam'; give one"):
        Decontaminate(against=[exam, str(csv)]).needs(Shape.RESPONSES)
    step = Decontaminate(against=[exam, {"path": str(csv), "name": "choices"}])
    question = "Which of these animals lays its eggs in the hot sand?"
    rows, info = judged(step, responses((question, "C")))
    assert rows[0][1].startswith("prompt: choices exam.csv:2, 11 of 11 words (1.00): Which")
    assert info["exam"]["found"] == 0
    assert info["dirty"] == ["choices"]


def test_a_benchmark_keeps_places_of_what_it_leaves_out():
    found = benchmark("b", pl.Series([None, "one", " ", "two"]))
    assert found.texts.to_list() == ["one", "two"]
    assert found.places.to_list() == ["b:2", "b:4"]
    assert benchmark("b", pl.Series([], dtype=pl.String)).texts.len() == 0


def test_a_version_of_the_catalog(tmp_path):
    from catalog.publish import publish
    from catalog.versions import Catalog

    result = run(recipe("tests.steps.Length"), one_file(responses((TRAIN, "3"))), tmp_path / "s")
    version = publish(result, Catalog(root=tmp_path / "versions")).version
    step = Decontaminate(against=version.ref, catalog=tmp_path / "versions")
    rows, info = judged(step, responses((TRAIN, "new"), ("other", "x")))
    assert [r for r, _ in rows] == ["contaminated", None]
    assert info["dirty"] == [version.ref]
    with pytest.raises(ConfigError, match="no version '9'"):
        Decontaminate(against="tiny@9", catalog=tmp_path / "versions").needs(Shape.PROMPTS)


def test_a_hub_dataset(monkeypatch):
    from catalog.sources.chunks import Chunk
    from catalog.sources.spec import SourceFile

    monkeypatch.setattr(
        "filters.contamination.benchmarks.hub_revision", lambda name, revision: "abc"
    )
    monkeypatch.setattr(
        "filters.contamination.benchmarks.hub_splits",
        lambda spec, name, commit: (SourceFile(spec.split or "test", name, -1),),
    )
    table = pl.DataFrame({"question": [TRAIN, None]})
    monkeypatch.setattr(
        "filters.contamination.benchmarks.hub_chunks",
        lambda *_: iter([Chunk(lines=[1, 2], table=table)]),
    )
    found = read_benchmark("hf://datasets/who/exam", split="main")
    assert (found.name, found.texts.to_list(), found.places.to_list()) == (
        "exam",
        [TRAIN],
        ["main:1"],
    )


def test_identity_is_the_content_not_the_place(tmp_path, exam):
    step = Decontaminate(against=exam)
    moved = tmp_path / "elsewhere" / "exam.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(Path(exam).read_bytes())
    assert Decontaminate(against=str(moved)).fingerprint() == step.fingerprint()
    moved.write_text(json.dumps({"question": "Another question than the one before it was?"}))
    assert Decontaminate(against=str(moved)).fingerprint() != step.fingerprint()
    assert Decontaminate(against=exam, share=0.6).fingerprint() != step.fingerprint()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"against": []}, "at least 1 item"),
        ({"against": ["x"], "sides": ["prompts"]}, "'prompt', 'chosen', 'rejected' or 'response'"),
        ({"against": ["x"], "similarity": 0.9}, "similarity needs an encoder"),
        ({"against": ["x"], "share": 1}, "less than 1"),
        ({"against": [{"path": "x", "colum": "y"}]}, "Extra inputs"),
    ],
)
def test_wrong_fields(fields, text):
    with pytest.raises(ValidationError, match=text):
        Decontaminate(**fields)


def test_what_is_missing_is_found_before_the_run(tmp_path, exam):
    with pytest.raises(ConfigError, match=r"no such file or folder .*nowhere"):
        Decontaminate(against=str(tmp_path / "nowhere.jsonl")).needs(Shape.PAIRS)
    with pytest.raises(ConfigError, match="sides: rejected are none of a table of responses"):
        Decontaminate(against=exam, sides=("rejected",)).needs(Shape.RESPONSES)
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"words": "a"}\n')
    with pytest.raises(ConfigError, match="no column that is known to hold prompts"):
        Decontaminate(against=str(odd)).needs(Shape.PROMPTS)
    with pytest.raises(ConfigError, match="no column 'word'; did you mean 'words'"):
        Decontaminate(against={"path": str(odd), "column": "word"}).needs(Shape.PROMPTS)
    with pytest.raises(DataError, match="has not been fitted"):
        Decontaminate(against=exam).keep(prompts("x"), Context())


# -- whole runs -----


def test_a_run_is_the_same_however_it_is_cut(tmp_path, exam):
    texts = [TRAIN, OTHER_NUMBERS, SHORT, PARAPHRASE, *(f"question {i}" for i in range(40))]
    table = pairs(*[(t, f"good {i}", f"bad {i}") for i, t in enumerate(texts)])
    made = recipe({"filters.Decontaminate": {"against": [exam]}})
    whole = run(made, one_file(table), tmp_path / "a")
    cut = run(made, one_file(table.reverse()), tmp_path / "b", shard_rows=5, workers=3)
    assert digest(whole) == digest(cut)
    assert view(whole, "pairs").height == 41
    assert ledger_of(whole)["reason"].to_list().count("contaminated") == 2
    assert whole.stages[-1].info["exam"]["found"] == 2


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@shared
@pytest.mark.parametrize("percent", [1, 5, 20])
def test_planted_test_prompts_are_found_and_nothing_else(percent):
    train = [r["question"] for r in read(SHARED / "verifiable/gsm8k_train_slice.jsonl.gz")][:1000]
    test = [r["question"] for r in read(SHARED / "verifiable/gsm8k_test.jsonl.gz")]
    planted = dict(zip(range(0, 1000, 100 // percent), test, strict=False))
    rows = [
        (f"Solve this.\n\n{planted[i]}" if i in planted else t, "42") for i, t in enumerate(train)
    ]
    table = responses(*rows)
    step = Decontaminate(against=str(SHARED / "verifiable/gsm8k_test.jsonl.gz"))
    found, info = judged(step, table)
    extra = {i for i, (r, _) in enumerate(found) if r} - set(planted)
    assert all(found[i][0] for i in planted)
    assert len(extra) <= 1  # a stock phrase: "the original price. What was the original price"
    assert info["gsm8k_test"]["found"] - 10 * percent in (0, 1)
    assert info["dirty"] == (["gsm8k_test"] if 10 * percent / 1319 > 0.02 else [])


@shared
def test_a_contaminated_corpus():
    """Rows of the shared corpus by kind of damage: which are found, and no clean one."""
    rows = read(SHARED / "dedup/contaminated_corpus.jsonl.gz")
    truth = pl.read_csv(SHARED / "dedup/contaminated_corpus_truth.csv")
    kind = dict(truth.select("id", "kind").iter_rows())
    table = responses(*[(r["prompt"], r["response"] or "-") for r in rows])
    files = ["verifiable/gsm8k_test.jsonl.gz", "verifiable/humaneval.jsonl.gz",
             "verifiable/truthfulqa.csv", "verifiable/ifeval_input_data.jsonl",
             "preference_judge/mt_bench_question.jsonl"]  # fmt: skip
    against = [{"path": str(SHARED / f)} for f in files]
    against.append({"path": str(SHARED / "verifiable/mmlu_*"), "name": "mmlu"})
    step = Decontaminate(against=against, sides=("prompt",))
    found = reasons(step, table)
    shares = (
        pl.DataFrame({"kind": [kind.get(r["id"], "clean") for r in rows], "found": found})
        .group_by("kind")
        .agg(pl.col("found").is_not_null().mean())
    )
    share = {k: round(v, 3) for k, v in shares.iter_rows()}
    assert share["clean"] <= 0.001  # one of 1,000, by a stock phrase of the exam
    assert share["verbatim"] == share["verbatim_with_answer"] == share["first60pct"] == 1
    assert min(share["noise"], share["in_conversation"], share["options_shuffled"]) >= 0.95
    assert share["edit10"] >= 0.7
    assert share["rephrase_en"] == share["rephrase_python"] == share["translate_zh"] == 0
