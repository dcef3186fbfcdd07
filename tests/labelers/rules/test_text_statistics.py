"""Text statistics: known counts, other scripts, Markdown inside and outside of code."""

import pytest

from labelers.rules.statistics import TextStatistics
from prefactory.context import Context
from prefactory.tables import Shape
from tests.helpers import responses


def count(text, **fields):
    step = TextStatistics(**fields)
    out = step.label(responses(("q", text)), Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return {k.removeprefix("score_"): v for k, v in out.row(0, named=True).items()}


MARKDOWN = """# Title
Some **bold text** and __more__, a*b and 2 ** 3.

- one [link](https://a.b/c "t")
* two https://x.y
1. three
   2) four

```python
# no heading
- no bullet **no**
```
## Why? Really?!
"""


def test_markdown():
    found = count(MARKDOWN)
    expected = {
        "headings": 2, "bullets": 2, "numbered": 2, "bold": 2, "code_blocks": 1, "links": 2,
        "questions": 2,
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected


def test_words_of_any_script():
    assert count("Don't stop, don\u2019t!")["words"] == 3
    assert count("你好 world")["words"] == 3
    assert count("The cat the CAT sat")["type_token_ratio"] == pytest.approx(3 / 5)
    assert count("真的吗\uff1f真的\uff01")["questions"] == 1
    assert count("🙂")["characters"] == 1


def test_odd_texts():
    nothing = count("")
    assert nothing.pop("type_token_ratio") is None
    assert set(nothing.values()) == {0}
    assert count("```\nnever closed\n# x")["code_blocks"] == 1
    assert count("```\nnever closed\n# x")["headings"] == 0
    assert count("a " * 500_000)["words"] == 500_000


def test_options():
    assert list(count("a", objectives=("words",), prefix="n_")) == ["n_words"]
    assert TextStatistics().label(responses(("q", "a")).clear(), Context()).height == 0
    for wrong in ((), ("words", "words"), ("hedges",)):
        with pytest.raises(ValueError, match="objectives"):
            TextStatistics(objectives=wrong)
