"""Prompt texts that would run for ever, fill memory or reach out."""

import pytest
from jinja2.sandbox import SecurityError

from prefactory import sandbox
from prefactory.sandbox import Sandbox, rendered


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(sandbox, "ROUNDS", 2000)


def fill(text, **values):
    return rendered(Sandbox().from_string(text), values)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in long %}{% for b in long %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 99999999 }}",
        "{{ 99999999 * [1] }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%99999999d' % 1 }}",
        "{{ '%99999999d'|format(1) }}",
        "{{ '%*d'|format(99999999, 1) }}",
        "{% set n = namespace(x='a') %}{% for i in range(40) %}"
        "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(40) %}"
        "{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{{ x|replace('a', x) }}",
        "{% set x = 'a' * 9999999 %}{{ ([x] * 1000)|join }}",
        "{% set x = 'a' * 999999 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
        "{% set x = 'a' * 999999 %}{% macro m() %}{% for i in range(99) %}{{ x }}{% endfor %}"
        "{% endmacro %}{% set y = m() %}",
        "{{ 'x'|center(99999999) }}",
        "{{ 'x'|indent(99999999, true) }}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_what_is_hostile_is_refused(text):
    with pytest.raises(SecurityError):
        fill(text, long="x" * 100)


def test_usual_texts_are_as_before():
    text = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }}"
        "{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}"
        "{{ 3 * 4 }} {{ '-' * 3 }} {{ 2 ** 8 }} {{ 7 % 4 }} {{ '%03d' % 7 }} {{ 'x'|center(5) }}."
    )
    messages = [{"role": "user"}, {"role": "assistant"}]
    assert fill(text, messages=messages) == "1/2 user, 2/2 assistant12 --- 256 3 007   x  ."
    assert fill("{% for m in messages %}{% else %}none{% endfor %}", messages=[]) == "none"
    assert fill("{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}", d={"a": 1}) == "a1"


def test_texts_are_joined_as_before():
    text = (
        "{{ 'a' ~ 1 ~ none }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ [1, 2]|join(', ') }} "
        "{{ people|join('-', attribute='n') }} {{ 'aXbX'|replace('X', 'y') }} "
        "{{ 'XX'|replace('X', 'y', 1) }} {{ 1 + 2 }}"
    )
    people = [{"n": "p"}, {"n": "q"}]
    assert fill(text, people=people) == "a1None ab [1, 2] 1, 2 p-q ayby yX 3"


def test_rounds_are_counted_for_each_rendering():
    template = Sandbox().from_string("{% for i in range(1500) %}{% endfor %}done")
    assert [rendered(template, {}) for _ in range(3)] == ["done"] * 3
