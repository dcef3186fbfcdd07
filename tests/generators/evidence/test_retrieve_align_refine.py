import json
import re

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from generators import RetrieveAlignRefine
from generators.evidence.claims import align, claim_spans
from generators.evidence.corpus import CorpusSource, Retrievers, corpus_of, open_corpus
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from prefactory.testing.applied import word_vectors
from tests.generators.sampling import asked_run, model
from tests.generators.test_no_answer_is_published import BAD, engine
from tests.helpers import asking, content, digest, prompts, recipe

HERE = __name__
TOWNS = ["Lund", "Ystad", "Visby", "Falun", "Kalmar", "Malmo", "Umea", "Gavle"]
FACTS = [
    {"id": f"p{i}", "text": f"The tower of {town} was built in {1700 + 10 * i} by Anna Berg."}
    for i, town in enumerate(TOWNS)
] + [
    {"id": f"r{i}", "text": f"The river at {town} is wide and slow."}
    for i, town in enumerate(TOWNS)
]


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    return str(file)


def wrong(request):
    """A draft whose second claim is wrong, third right, fourth not known."""
    text = request.conversation[-1]["content"]
    if "Write it again" in text:
        return mended(request)
    if "fine" in text:
        return "The tower of Lund was built in 1700 by Anna Berg."
    if "down" in text:
        return Failure("http_500", "down")
    return (
        "Towers are old.\nThe tower of Ystad was built in 1999 by Anna Berg.  "
        "The river at Ystad is wide and slow.\u00a0The bridge of Zorn is red."
    )


def mended(request):
    """Takes the year out of the first passage."""
    text = request.conversation[-1]["content"]
    sentence = re.search(r"--- \w{8} sentence\n(.*)\n", text)[1]
    year = re.search(r"passage 1\n.*?(\d{4})", text)
    return re.sub(r"\d{4}", year[1], sentence) if year else sentence


def stubborn(request):
    if "Write it again" in request.conversation[-1]["content"]:
        return re.search(r"--- \w{8} sentence\n(.*)\n", request.conversation[-1]["content"])[1]
    return wrong(request)


def chatty(request):
    if "Write it again" in request.conversation[-1]["content"]:
        return "First line.\nSecond line."
    return wrong(request)


W = model("w", f"{HERE}.wrong")


def made(step, table, seed=0):
    name = f"generators.{type(step).__name__}"
    return apply_generator(step, name, table, Shape.PROMPTS, asking(seed, name, embed=word_vectors))


def test_only_the_contradicted_claim_is_mended(corpus):
    step = RetrieveAlignRefine(model=W, corpus=corpus)
    rows, dropped = made(step, prompts("Tell me of Ystad."))
    assert dropped.height == 0
    (row,) = rows.to_dicts()
    draft, refined = row["rejected"][0]["content"], row["chosen"][0]["content"]
    assert draft == row["draft"]
    assert refined == draft.replace("1999", "1710")
    assert (row["contrast"], row["label_source"]) == ("refined", "rule")
    assert (row["contradicted_claims"], row["absent_claims"]) == (1, 2)
    told = row["claims"]
    assert [c["verdict"] for c in told] == ["absent", "contradicted", "supported", "absent"]
    assert [draft[c["start"] : c["end"]] for c in told] == [
        draft[a:b] for a, b in claim_spans(draft)
    ]
    assert told[1]["evidence_id"] == "p1"
    assert told[1]["evidence"] == FACTS[1]["text"]
    assert (told[1]["refined_verdict"], told[1]["round"]) == ("supported", 1)
    assert told[2]["evidence_id"] == "r1"
    assert told[2]["refined"] is None
    assert all(len(c["passage_ids"]) == 5 for c in told)


def test_a_swapped_number_is_rejected(corpus):
    step = RetrieveAlignRefine(model=W, corpus=corpus, contrasts=["swapped_evidence", "refined"])
    rows, _ = made(step, prompts("Tell me of Ystad."))
    by = {r["contrast"]: r for r in rows.to_dicts()}
    swapped = by["swapped_evidence"]
    assert swapped["chosen"] == by["refined"]["chosen"]
    year = re.search(r"built in (\d{4})", swapped["rejected"][0]["content"])[1]
    assert year in {str(1700 + 10 * i) for i in range(8)} - {"1710"}  # of another passage
    assert swapped["rejected"][0]["content"] == swapped["draft"].replace("1999", year)


def judged(request):
    """Reads as the rule does; the words that decide are the whole passage."""
    text = request.conversation[0]["content"]
    claim = re.search(r"--- \w{8} claim\n(.*)\n", text)[1]
    shown = re.findall(r"--- \w{8} passage \d\n(.*)\n", text)
    town = re.search(r"(?:tower|river) (?:of|at) (\w+)", claim)
    about = [p for p in shown if town and town.group() in p]
    if not about:
        return json.dumps({"verdict": "absent", "span": ""})
    years = re.findall(r"\d{4}", claim)
    fine = all(y in about[0] for y in years)
    return json.dumps(
        {"verdict": "supported" if fine else "contradicted", "span": about[0].upper()}
    )


def by_place(request):
    """Supported if the passage that decides stands first: contradicts itself in the other order."""
    text = request.conversation[0]["content"]
    shown = re.findall(r"--- \w{8} passage \d\n(.*)\n", text)
    verdict = "contradicted" if shown[0] < shown[-1] else "supported"
    return json.dumps({"verdict": verdict, "span": shown[0]})


def invents(request):
    return json.dumps({"verdict": "contradicted", "span": "words that stand nowhere"})


def test_a_judge_aligns_in_both_orders(corpus):
    table = prompts("Tell me of Ystad.")
    step = RetrieveAlignRefine(model=W, corpus=corpus, judge=model("j", f"{HERE}.judged"))
    rows, _ = made(step, table)
    assert rows["label_source"].to_list() == ["judge"]
    assert [c["verdict"] for c in rows["claims"][0]] == [
        "absent",
        "contradicted",
        "supported",
        "absent",
    ]
    assert rows["claims"][0][1]["evidence_id"] == "p1"
    for function in (by_place, invents):
        judge = model("j", f"{HERE}.{function.__name__}")
        rows, dropped = made(RetrieveAlignRefine(model=W, corpus=corpus, judge=judge), table)
        assert dropped["reason"].to_list() == ["nothing_to_mend"]


def test_rows_without_a_pair_are_accounted_for(corpus):
    table = prompts("All is fine.", "The server is down.")
    rows, dropped = made(RetrieveAlignRefine(model=W, corpus=corpus), table)
    assert rows.height == 0
    assert set(dropped["reason"]) == {"nothing_to_mend", "http_500"}
    for function, reason in ((stubborn, "still_contradicted"), (chatty, "unparseable")):
        step = RetrieveAlignRefine(model=model("m", f"{HERE}.{function.__name__}"), corpus=corpus)
        assert made(step, prompts("Tell me."))[1]["reason"].to_list() == [reason]
    given = prompts("A?", "B?", "C?").with_columns(
        mine=pl.Series(["", "Is it so?", "The tower of Ystad was built in 1999 by Anna Berg."])
    )
    step = RetrieveAlignRefine(model=W, corpus=corpus, draft="mine")
    rows, dropped = made(step, given)
    assert sorted(dropped["reason"]) == ["no_claims", "no_draft"]
    assert rows["rejected_model"].to_list() == rows["rejected_origin"].to_list() == [None]
    assert rows["chosen_model"].to_list() == ["w"]
    ratio = step.model_copy(update={"length_ratio": (1.1, 1.2)})
    assert "length_ratio" in made(ratio, given)[1]["reason"]


def test_what_no_passage_decides_is_kept_hedged_or_dropped(corpus):
    table = prompts("Tell me.")
    wide = {"model": W, "corpus": corpus, "length_ratio": (0.1, 9)}
    kept, _ = made(RetrieveAlignRefine(**wide), table)
    dropped, _ = made(RetrieveAlignRefine(**wide, absent="drop"), table)
    text = content(dropped, "chosen")[0]
    assert text == content(kept, "chosen")[0].replace("Towers are old.", "").replace(
        "The bridge of Zorn is red.", ""
    )
    hedged = model("h", f"{HERE}.hedges")
    rows, _ = made(RetrieveAlignRefine(**{**wide, "model": hedged}, absent="hedge"), table)
    assert content(rows, "chosen")[0].endswith("Perhaps so.")
    assert [c["refined_verdict"] for c in rows["claims"][0]] == [
        "absent",
        "supported",
        None,
        "absent",
    ]


def hedges(request):
    text = request.conversation[-1]["content"]
    return "Perhaps so." if "claims no more than is known" in text else wrong(request)


def test_shards_and_order_change_nothing(corpus, tmp_path):
    table = prompts(*[f"Tell me of no {i}." for i in range(6)], "All is fine.")
    fields = {"model": W, "corpus": corpus, "contrasts": ["refined", "swapped_evidence"]}
    plan = recipe({"generators.RetrieveAlignRefine": fields})
    cuts = [(table, 1000), (table, 1), (table[::-1], 5)]
    runs = [asked_run(plan, t, tmp_path / str(i), size, 2, embed=word_vectors)
            for i, (t, size) in enumerate(cuts)]  # fmt: skip
    assert len({digest(r) for r in runs}) == 1


def test_the_corpus_is_part_of_the_identity(corpus, tmp_path):
    step = RetrieveAlignRefine(model=W, corpus=corpus)
    copy = tmp_path / "copy.jsonl"
    copy.write_text((tmp_path / "corpus.jsonl").read_text())
    same = RetrieveAlignRefine(model=W, corpus={"path": str(copy)})
    assert step.fingerprint() == same.fingerprint()
    copy.write_text(json.dumps({"id": "x", "text": "Another."}))
    assert step.fingerprint() != RetrieveAlignRefine(model=W, corpus=str(copy)).fingerprint()
    with pytest.raises(DataError, match=r"no column 'words'.*there are: id, text"):
        open_corpus(CorpusSource(path=corpus, text="words"))
    with pytest.raises(DataError):
        open_corpus(CorpusSource(path=str(tmp_path / "nothing.jsonl")))
    with pytest.raises(ConfigError, match=r"corpus: .*nothing.jsonl"):
        RetrieveAlignRefine(model=W, corpus=str(tmp_path / "nothing.jsonl")).needs(Shape.PROMPTS)
    with pytest.raises(ValidationError):
        RetrieveAlignRefine(model=W, corpus=corpus, contrasts=[])


def test_several_retrievers_are_fused():
    held = corpus_of([("a", "red boats"), ("b", "green boats"), ("c", "a harbour of ships")])

    def embed(encoder, texts):
        near = {"vessels": 2, "red boats": 0, "green boats": 1, "a harbour of ships": 2}
        return np.eye(3, dtype=np.float32)[[near.get(t, 0) for t in texts]]

    ctx = Context(embed=embed)
    both = Retrievers().search(held, ["vessels"], ctx, 2)[0]
    assert held.ids.gather(both.places).to_list() == ["c", "a"]
    assert both.cosines.tolist() == [1, 0]
    (words,) = Retrievers(encoders=()).search(held, ["green"], ctx, 2)
    assert held.ids.gather(words.places).to_list() == ["b"]
    assert np.isnan(words.cosines).all()


def test_planted_claims():
    """30 supported, 30 contradicted, 30 absent among 180 passages (as in our specification)."""
    rng = np.random.default_rng(0)
    ends = ["ama", "ebo", "ica", "oda", "ulo", "yra", "ano", "eki", "imu", "ora", "ute", "asi"]
    names = [f"{a}{b}" for a in ("Al", "Bor", "Cen", "Dor", "Ek") for b in ends]
    places = [f"{n}by" for n in names]
    verbs = ["founded the school", "painted the hall", "sold the mill"]
    facts = [(n, verbs[i % 3], places[(i + k) % 60], int(rng.integers(1500, 1990)))
             for k in range(3) for i, n in enumerate(names)]  # fmt: skip
    corpus = corpus_of(
        [(f"{i:03}", f"{n} {v} of {p} in {y}.") for i, (n, v, p, y) in enumerate(facts)]
    )
    claims, truth = [], []
    for i, (n, v, p, y) in enumerate(facts[:90]):
        kind = ("supported", "contradicted", "absent")[i % 3]
        strange = f"Zed{n.lower()}"
        claims.append(f"In fact {n if kind != 'absent' else strange} {v} of {p} in "
                      f"{y if kind != 'contradicted' else y + 7}.")  # fmt: skip
        truth.append(kind)
    ctx = Context(embed=word_vectors)
    found = Retrievers().search(corpus, claims, ctx, 5)
    verdicts = [
        align(c, corpus.texts.gather(f.places).to_list(), f.cosines, corpus.words).verdict
        for c, f in zip(claims, found, strict=True)
    ]
    right = {
        k: sum(v == k for v, t in zip(verdicts, truth, strict=True) if t == k) for k in set(truth)
    }
    assert right == {"supported": 30, "contradicted": 30, "absent": 30}


@pytest.mark.parametrize("kind", BAD)
def test_no_claim_is_mended_by_what_is_no_answer(corpus, kind):
    draft = "The tower of Ystad was built in 1999 by Anna Berg."
    given = prompts("A?").with_columns(mine=pl.Series([draft]))
    for fields in ({}, {"draft": "mine"}):
        rows, dropped = made(
            RetrieveAlignRefine(model=engine(kind), corpus=corpus, **fields), given
        )
        assert (rows.height, dropped.height) == (0, 1)
