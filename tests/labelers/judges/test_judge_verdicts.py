import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.judges.verdicts import Verdict, options, schema, verdict_of

A, B, C, TIED = Verdict(0), Verdict(1), Verdict(2), Verdict(None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[[A]]", A),
        ("B", B),
        (" **C**.\n", C),
        ("(b)", B),
        ("[B]", B),
        ("Final verdict: [[C]]", C),
        ("A is clear, B is wrong.\n\nIt is close.\n\n[[B]]", B),
        ("Both are fine.\nFinal verdict: A", A),
        ("The winner is B.", B),
        ("My final answer: **c**", C),
        ("Answer A", A),
        ("[[ tie ]]", TIED),
        ("Tie", TIED),
        ('{"winner": "A"}', A),
        ('```json\n{"rationale": "x [[B]]", "winner": "a"}\n```', A),
        ('I say {"verdict": "tie"} and no more', TIED),
        ("[[A]] ... so [[A]]", A),
        ('{"winner": "B"} {"winner": "B"}', B),
        ("<think>Maybe [[A]]? No.</think>\n[[B]]", B),
        ('Perhaps [[A]].\n</think>{"winner": "B"}', B),  # servers cut the opening tag off
        ('{"rationale": "B has {braces} and } one", "winner": "A"}', A),
        ('{"winner": "A", "why": {"clear": 1}}', A),
        ('{"result": {"winner": "C"}}', C),
        ('B wrote {"a": 1,} there.\n{"winner": "A"}', A),
        ('The code {"a": 1} is right. [[C]]', C),
    ],
)
def test_verdicts_that_count(text, wanted):
    assert verdict_of(text, 3) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no verdict"),
        ("both are bad", "no verdict"),
        ("A and B", "no verdict"),
        ("A\nbut I am not sure", "no verdict"),
        ('{"winner": "A', "no verdict"),
        ('{"winner": 0}', "0 is no possible verdict"),
        ('{"best": "A"}', "no verdict"),
        ("[[D]]", "D is no possible verdict"),
        ("D", "D is no possible verdict"),
        ("[[AB]]", "AB is no possible"),
        ("[[A]] or [[B]]", "more than one verdict"),
        ('{"winner": "A"} {"winner": "tie"}', "more than one verdict"),
        ("[[A]] or [[Z]]", "Z is no possible"),
        ("[[Assistant A, whose answer is so much longer than B's]]", "no verdict"),
        ("[[A>B]]", "A>B is no possible"),
        ("\ud800", "no verdict"),
        ("<think>I lean towards [[A]], but", "no verdict"),
        ("<think>[[A]]</think> Hard to say.", "no verdict"),
    ],
)
def test_rubbish_and_absent_names_say_what_is_wanted(text, why):
    with pytest.raises(ValueError, match=why) as caught:
        verdict_of(text, 3)
    assert str(caught.value).endswith("Say exactly one of [[A]], [[B]], [[C]], [[tie]].")


def test_a_tie_only_where_it_may_be_said():
    with pytest.raises(ValueError, match=r"TIE is no possible verdict.* of \[\[A\]\], \[\[B\]\]\."):
        verdict_of("[[tie]]", 2, ties=False)
    with pytest.raises(ValueError, match="A=B is no possible"):
        verdict_of("[[A=B]]", 2, ties=False, strength=True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[[A>>B]]", Verdict(0, True)),
        ("[[a > b]]", A),
        ("[[A=B]]", TIED),
        ("[[B>A]]", B),
        ("B>>A", Verdict(1, True)),
        ("[[A<<B]]", Verdict(1, True)),
        ("[[B<A]]", A),
        ("[[tie]]", TIED),
        ('{"winner": "B>A"}', B),
    ],
)
def test_how_much_better(text, wanted):
    assert verdict_of(text, 2, strength=True) == wanted


@pytest.mark.parametrize("text", ["[[A]]", "[[A>A]]", "[[A>C]]", "[[A>>>B]]", "[[>]]"])
def test_strength_must_be_said_in_full(text):
    with pytest.raises(ValueError, match=r"\[\[A>>B\]\], \[\[A>B\]\], \[\[A=B\]\]"):
        verdict_of(text, 2, strength=True)


@given(st.text(), st.integers(2, 26), st.booleans(), st.booleans())
def test_any_text_is_a_verdict_or_a_value_error(text, n, ties, strength):
    n = 2 if strength else n
    try:
        found = verdict_of(text, n, ties, strength)
    except ValueError:
        return
    assert found.place is None or 0 <= found.place < n


@given(st.integers(2, 26), st.booleans(), st.booleans(), st.booleans())
def test_everything_that_may_be_said_is_understood(n, ties, strength, rationale):
    n = 2 if strength else n
    said = options(n, ties, strength)
    found = [verdict_of(f"[[{o}]]", n, ties, strength) for o in said]
    assert len(set(found)) == len(said)
    form = schema(n, ties, strength, rationale)
    first = {"rationale": "x"} if rationale else {}
    for option in said:
        jsonschema.validate({**first, "winner": option}, form)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**first, "winner": "nobody"}, form)
    assert list(form["properties"])[-1] == "winner"
