import pytest

from prefactory.errors import ConfigError
from prefactory.yamllines import load


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
