"""Chat templates of models in our sandbox: the same texts, and an end."""

import json

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from transformers.utils import chat_template_utils

from prefactory.chat_template import ChatTemplate
from prefactory.chat_template import TemplateError as Refusal
from prefactory.safety import sandbox
from prefactory.safety.chat_templates import bound_templates
from prefactory.testing import assistant, user
from tests.helpers import TEMPLATE, tiny_llama
from tests.prefactory import test_chat_template as texts
from tests.prefactory.images.tiny_llava import TEMPLATE as PICTURES

NESTED = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n' }}{%- for tool in tools %}{{- "\\n" }}
{{- tool | tojson(indent=2) }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.multi_step_tool and message.role == "user" and message.content is string
 and not(message.content.startswith('<tool>')) %}
{%- set ns.multi_step_tool = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- set content = message.content if message.content is string %}
{%- if message.role == "assistant" %}{%- set reasoning = '' %}
{%- if '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{%- if loop.last or (not loop.last and reasoning) %}{%- generation %}
{{- '<|im_start|>' ~ message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n' }}
{{- content }}{%- endgeneration %}{%- else %}{{- content }}{%- break %}{%- endif %}
{%- for call in message.tool_calls or [] %}{%- if call.function %}{%- set call = call.function %}
{%- endif %}{{- '<tool_call>\\n{"name": "%s", ' % call.name }}
{{- call.arguments if call.arguments is string else call.arguments|tojson }}{%- endfor %}
{%- else %}{{- message.role|trim|title ~ ':' ~ content ~ undefined_name }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
{{- strftime_now('%Y') ~ bos_token|default('<s>') }}{{- (messages|map(attribute='role')|list) }}
{%- macro shown(m, deep=false) %}{{ m.content|e if deep else m['content']|length }}{% endmacro %}
{%- for m in messages %}{{ shown(m) }}{{ shown(m, deep=true) }}{{ loop.length }}
{{- loop.previtem.role if not loop.first }}{%- endfor %}"""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"a": {"type": "ö"}}}}]
TALK = [
    {"role": "user", "content": "Where <b>is</b> it? 🙂"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\nHere."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "look", "arguments": {"city": "Ä"}}}]},
]  # fmt: skip


@pytest.fixture
def theirs(monkeypatch):
    """What transformers has by itself, whoever bounded it before in this process."""
    now = chat_template_utils._compile_jinja_template
    before = getattr(now, "theirs", now)
    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", before)
    return before


@pytest.mark.parametrize(
    "text",
    [
        QWEN, TEMPLATE, PICTURES,
        *(getattr(texts, name) for name in ("SKIPS", "STRIPS", "THINKS", "ENDLESS", "CALLS")),
    ],
)  # fmt: skip
def test_texts_are_those_of_transformers(theirs, text):
    def both(**more):
        return chat_template_utils.render_jinja_template(
            [TALK, TALK[:1]], chat_template=text, **more
        )

    rows = [{}, {"tools": TOOLS}, {"add_generation_prompt": True, "bos_token": "<|b|>"}]
    marked = [{"return_assistant_tokens_mask": True}] if "generation %}" in text else []
    before = [both(**more) for more in [*rows, *marked]]
    bound_templates()
    assert chat_template_utils._compile_jinja_template is not theirs
    assert [both(**more) for more in [*rows, *marked]] == before


@pytest.mark.parametrize(
    "text",
    [
        NESTED, "{% generation %}" + NESTED + "{% endgeneration %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 999999999 }}", "{{ messages|tojson(indent=999999999) }}",
        "{{ messages|tojson(separators=('x' * 9999999, ':')) }}", "{{ lipsum(n=999999999) }}",
        "{{ ([1] * 99999)|tojson(indent=9999) }}",
        "{{ messages[0].content.__class__.__mro__[1].__subclasses__() }}",
    ],
)  # fmt: skip
def test_a_template_that_would_not_end_or_reaches_out_is_stopped(theirs, monkeypatch, text):
    monkeypatch.setattr(sandbox, "ROUNDS", 2000)
    bound_templates()
    with pytest.raises(TemplateError):
        chat_template_utils.render_jinja_template([TALK], chat_template=text)
    if "generation" in text:
        with pytest.raises(SecurityError):
            chat_template_utils.render_jinja_template(
                [TALK], chat_template=text, return_assistant_tokens_mask=True
            )


def test_bounds_grow_with_the_conversation(theirs):
    bound_templates()
    long = [{"role": "user", "content": "x" * 2_000_000}] * 12
    text = "{% for m in messages %}{{ m.content|trim }}{% endfor %}{{ messages|tojson|length }}"
    found, _ = chat_template_utils.render_jinja_template([long], chat_template=text)
    assert found[0].startswith("x" * 2_000_000 * 12)
    assert found[0].lstrip("x") == str(len(json.dumps(long)))


def test_every_place_that_opens_a_tokenizer_bounds_it(theirs, tmp_path):
    folder = tiny_llama(tmp_path)
    template = ChatTemplate.open(str(folder))
    template.tokenizer.chat_template = "{{ 'x' * 999999999 }}"
    with pytest.raises(Refusal, match="too long"):
        template.text([user("a"), assistant("b")])
