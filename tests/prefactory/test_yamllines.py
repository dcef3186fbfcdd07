import random

import pytest

from prefactory.errors import ConfigError
from prefactory.yamllines import MAX_VALUES, load, value


def test_words_are_those_of_yaml_1_2():
    text = "on: [no, yes, off, true, False, 0x1f, is it?, 12:30, 1e3, 1.5e-3, -5, null]"
    data, lines = load(text, "r.yaml")
    assert data == {
        "on": ["no", "yes", "off", True, False, 31, "is it?", "12:30", 1000.0, 0.0015, -5, None]
    }
    assert lines[("on",)] == 1


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a:\n\t- b\n", "indent with spaces"),
        ("a: {b: c: d}\n", "must be quoted"),
        ("a: b: c\n", "must be quoted"),
        ("a: @x\n", "quote the text"),
        ("a: 'it's'\n", "write it twice"),
        ("- a\nb: c\n", "indent one of them"),
        ("a: [1, 2\n", "never closed"),
        ('a: "x\n', "never closed"),
    ],
)
def test_a_trap_of_yaml_comes_with_advice(text, advice):
    with pytest.raises(ConfigError, match=advice) as error:
        load(text, "r.yaml")
    assert "r.yaml: line" in str(error.value)


def test_a_tag_that_makes_objects_is_refused():
    with pytest.raises(ConfigError, match="python/object"):
        load("a: !!python/object:os.system x\n", "r.yaml")


BOMB = 'x0: &x0 ["lol", "lol", "lol", "lol", "lol", "lol", "lol", "lol", "lol"]\n' + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2024-13-45\n", "line 2: '2024-13-45' is no timestamp"),
        ("b: 2024-01-01T25:00:00Z\n", "is no timestamp"),
        ('seed: !!int "abc"\n', "line 1: 'abc' is no int"),
        ("a: !!float x\n", "'x' is no float"),
        ("a: !!bool maybe\n", "'maybe' is no bool"),
        ("? 2024-13-45\n: x\n", "is no timestamp"),
        ("seed: " + "9" * 6000, "a number of 6,000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("seed: 9223372036854775808\n", "is no int of 64 bits"),
        ("a: " + "[" * 3000, "nested more than 50 deep"),
        ("a: " + "{" * 3000, "nested more than 50 deep"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("a: &a {b: *a}\n", "an alias hold itself"),
        (BOMB, f"stand for more than {MAX_VALUES:,} values"),
        ("a: \x07b\n", "unacceptable character"),
        ("a: " + "b" * 10_000_000, "10,000,003 characters are more than"),
    ],
)
def test_a_hostile_value_is_one_sentence(text, problem):
    with pytest.raises(ConfigError) as error:
        load(text, "r.yaml")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert value(text) == text


def test_aliases_that_stand_for_little_are_read():
    data, _ = load("x: &x [1]\n" + "".join(f"a{i}: *x\n" for i in range(500)), "r.yaml")
    assert data["a499"] == [1]


PIECES = [
    *"[]{}:,-?&*!|>'\"%@`#<>= \n\t\x00\x07\ufeff\U0001f600",
    *[
        "a",
        "b:",
        "-",
        "1",
        "0x",
        "1e9",
        ".inf",
        ".nan",
        "~",
        "null",
        "2024-13-01",
        "12:61",
        "*a",
        "&a",
        "<<",
        "---",
    ],
    *("!!int", "!!set", "!!python/x", "\n  ", "\n- ", ": ", "9" * 400, "[" * 60, "seed: "),
]


@pytest.mark.parametrize("seed", range(3))
def test_any_text_is_read_or_refused(seed):
    draw = random.Random(seed)
    recipe = (
        "name: x\nsource: {path: a.jsonl}\nseed: 3\nsteps:\n  - filters.Length: {min_words: 1}\n"
    )
    for _ in range(120):
        text = recipe
        for _ in range(draw.randint(1, 5)):
            place, cut = draw.randrange(len(text) + 1), draw.choice((0, 0, 1, 9))
            text = text[:place] + draw.choice(PIECES) + text[place + cut :]
        try:
            load(text, "r.yaml")
        except ConfigError as error:
            problem = str(error)
        else:
            continue
        assert problem.startswith("r.yaml:"), text
