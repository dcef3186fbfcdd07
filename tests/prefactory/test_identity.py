import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.identity import (
    NOT_IDENTITY,
    canonical_json,
    differences,
    fingerprint,
    fingerprint_of,
    identity_of,
)
from tests.helpers import ROOT
from tests.steps import DropLong

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_canonical_json():
    value = {"b": [1, 2.5, None, True], "a": {"é": "\u2028"}, "t": (1,)}
    assert canonical_json(value) == '{"a":{"é":"\u2028"},"b":[1,2.5,null,true],"t":[1]}'


def test_known_fingerprint():
    """A change here gives every stored object a new address: bump SCHEME, and say so."""
    assert fingerprint({}) == "ee2f703105990cdbc444b52e74af1d0e"


@given(st.dictionaries(st.text(max_size=3), PLAIN, max_size=4))
def test_order_of_keys_does_not_matter(value):
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards)


@given(PLAIN)
def test_differences_of_a_value_with_itself(value):
    assert differences(value, value) == []


@given(st.lists(PLAIN))
def test_a_list_has_the_fingerprint_of_its_items(values):
    assert fingerprint_of(map(canonical_json, values)) == fingerprint(values)


def test_order_of_lists_and_types_matter():
    values = [[1, 2], [2, 1], ["1", "2"], [1, 2.5], {"1": 2}, None, False, 0, "", [], {}]
    assert len({fingerprint(v) for v in values}) == len(values)


def test_sets_have_no_order():
    assert fingerprint({"x": {"a", "b", "c"}}) == fingerprint({"x": {"c", "a", "b"}})


def test_fingerprints_do_not_depend_on_the_hash_seed():
    code = "from prefactory.identity import *; print(fingerprint({'x': {'a', 'b', 'c', 'd'}}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": s},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for s in ("1", "2", "3")
    }
    assert len(found) == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_without_a_form_are_refused(number):
    with pytest.raises(TypeError, match="no canonical JSON form; use null"):
        fingerprint({"a": [number]})


@pytest.mark.parametrize("value", [len, object(), b"bytes"])
def test_objects_without_a_form_are_refused(value):
    with pytest.raises(TypeError, match="has no canonical JSON form"):
        canonical_json([value])


def test_lone_surrogates_have_a_fingerprint():
    assert fingerprint("\ud800") != fingerprint("\udfff")


@pytest.mark.parametrize("name", sorted(NOT_IDENTITY))
def test_settings_that_change_no_data_are_left_out_at_every_depth(name):
    fields = {name: 1, "limit": 2, "encoder": {name: 3, "model": "m", "deep": [{name: 4, "k": 5}]}}
    kept = {"limit": 2, "encoder": {"model": "m", "deep": [{"k": 5}]}}
    assert identity_of(fields) == kept
    assert NOT_IDENTITY[name]


def test_identity_of_a_step():
    identity = DropLong(limit=3, workers=8).identity()
    assert len(identity.pop("source")) == 32  # not one of our packages: its module counts
    assert identity == {
        "step": "tests.steps.DropLong",
        "version": 1,
        "fields": {"limit": 3},
    }
    assert DropLong(workers=8).fingerprint() == DropLong().fingerprint()
    assert DropLong(limit=3).fingerprint() != DropLong().fingerprint()


def test_differences_are_lines_in_reading_order():
    old = {"seed": 1, "steps": [{"step": "A", "n": 1}, {"step": "B"}], "old": "x"}
    new = {"seed": 2, "steps": [{"step": "A", "n": 2.5}, {"step": "B"}], "new": None}
    assert differences(old, new) == [
        "new: (absent) -> None",
        "old: 'x' -> (absent)",
        "seed: 1 -> 2",
        "steps.0.n: 1 -> 2.5",
    ]


def test_differences_of_lists_of_other_length_and_of_values():
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a: [1] -> [1, 2]"]
    assert differences(1, "x") == ["value: 1 -> 'x'"]
    assert differences([1, 2], [1, 3]) == ["1: 2 -> 3"]
