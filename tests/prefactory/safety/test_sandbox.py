"""Prompt texts that would run for ever, fill memory or reach out."""

import pytest
from jinja2.sandbox import SecurityError

from prefactory.safety import sandbox
from prefactory.safety.sandbox import Sandbox, rendered


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
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a'.zfill(999999999) }}",
        "{{ '\t'.expandtabs(999999999) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=999999999) }}",
        "{{ ('{0}' * 99999).format('x' * 999999) }}",
        "{{ ('%(a)s' * 999999) % {'a': 'x' * 999999} }}",
        "{{ ('%s' * 99999)|format(*(['x' * 999999] * 99999)) }}",
        "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}",
        "{{ ('a' * 9999999).join('b' * 999999) }}",
        "{{ long.translate({120: 'b' * 999999}) }}",
        "{{ (5).to_bytes(999999999, 'big') }}",
        "{{ [1]|batch(99999999, 'x')|list }}",
        "{{ [1]|slice(99999999)|list }}",
        "{{ ('\n' * 999999)|indent('x' * 9999, true, true) }}",
        "{{ ('a ' * 999999)|wordwrap(1, true, 'x' * 99999) }}",
        "{{ ('a ' * 4999999)|wordwrap(1) }}",
        "{% set x = ['a' * 999999] * 9999 %}{{ x }}",
        "{% set x = ['a' * 999999] * 9999 %}{{ x|string }}",
        "{% set x = ['a' * 999999] * 9999 %}{{ x|tojson }}",
        "{% set x = ['a' * 999999] * 9999 %}{{ '%s' % x }}",
        "{% set x = ['a' * 999999] * 9999 %}{{ x|map('upper')|list }}",
        "{{ [range(99999)|list] * 100 }}",
        "{% for i in range(1999) %}{{ range(99999)|sum }}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(1999) %}"
        "{% set n.l = n.l + ['a' * 999999 ~ i] %}{% endfor %}",
        "{% set n = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% set n.m = [n.m, n.m] %}{% endfor %}{{ n.l == n.m }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% endfor %}{{ n }}",
        "{% set n = namespace(x=9 ** 20000) %}{% for i in range(40) %}"
        "{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{% for i in range(1999) %}{% set y = x[1:] %}{% endfor %}",
        "{% for i in range(1999) %}" + "fixed" * 3000 + "{% endfor %}",
        "{{ [1]|tojson(indent=99999999) }}",
        "{% set n = namespace(l=1) %}{% for i in range(99) %}{% set n.l = [n.l] %}{% endfor %}"
        "{{ n.l|tojson(indent=9999) }}",
        "{% for x in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
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


def test_methods_and_filters_of_usual_texts_are_as_before():
    text = (
        "{{ ' A b '.strip().lower() }}|{{ '{} {n:>3}'.format(1, n=2) }}|{{ ', '.join(words) }}|"
        "{{ 'a-b'.split('-')|last }}|{{ words|map('upper')|join(' ') }}|{{ '%s: %d' % ('n', 12) }}|"
        "{{ words|select('ne', 'x')|list|length }}|{{ {'a': [1, 'é']}|tojson }}|{{ 'a b'|title }}|"
        "{{ 'x'.center(5) }}|{{ 'long text here'|wordwrap(9) }}|{{ words[1:] }}|{{ 1.25|round(1) }}"
        "|{{ 123456 > 5 and 'y' in words }}|{{ words|batch(1)|list }}|{{ 'a\nb'|indent(2) }}|"
        "{{ 'x' * 3 }}|{{ '%06d'|format(7) }}|{{ words|sort(reverse=true)|first }}"
    )
    assert fill(text, words=["x", "y"]) == (
        'a b|1   2|x, y|b|X Y|n: 12|1|{"a": [1, "\\u00e9"]}|A B|  x  |long text\nhere|'
        "['y']|1.2|True|[['x'], ['y']]|a\n  b|xxx|000007|y"
    )


def test_rounds_are_counted_for_each_rendering():
    template = Sandbox().from_string("{% for i in range(1500) %}{% endfor %}done")
    assert [rendered(template, {}) for _ in range(3)] == ["done"] * 3
