# ruff: noqa: RUF001 - texts of many scripts

import polars as pl
import pytest
from pydantic import ValidationError

from filters.content.personal_data.hide import hide, marks_for
from filters.content.personal_data.rules import KINDS
from filters.content.personal_data.step import MaskPersonalData, PersonalData
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from prefactory.testing import verdicts
from tests.helpers import (
    assistant,
    content,
    digest,
    ledger_of,
    messages,
    one_file,
    pairs,
    prompts,
    recipe,
    responses,
    run,
    system,
    user,
    view,
)


def masked(*texts, **fields):
    step = MaskPersonalData(**fields)
    found = hide(pl.Series(texts, dtype=pl.String), step.kinds, step.allow)
    return found.masked(step.mask).to_list()


# -- what is found -----


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Write to Joe.Bloggs+x@acme-corp.co.uk, please.", "Write to [EMAIL], please."),
        ("'ann@foo.io' and <bob@foo.io>;", "'[EMAIL]' and <[EMAIL]>;"),
        ("привет иван@почта.рф!", "привет [EMAIL]!"),
        ("call +1 (212) 867-5309 or (415) 867 5309", "call [PHONE] or [PHONE]"),
        ("+44 20 7946 0958; +49 30 901820, 415-867-5309", "[PHONE]; [PHONE], [PHONE]"),
        ("tel:+14158675309", "tel:[PHONE]"),
        ("appelez le 06 12 34 56 79.", "appelez le [PHONE]."),
        ("手机：13812345678", "手机：[PHONE]"),
        ("her phone number is 5551234567.", "her phone number is [PHONE]."),
        ("call 1-415-867-5309 now", "call [PHONE] now"),
        ("server 93.184.216.34:80", "server 93.184.216.34:80"),
        ("server 93.184.216.34, port 80", "server [IP_ADDRESS], port 80"),
        ("2606:2800:220:1:248:1893:25c8:1946", "[IP_ADDRESS]"),
        ("at 2606:2800:220:1::25c8.", "at [IP_ADDRESS]."),
        ("card 4539 1488 0343 6467 ok", "card [CREDIT_CARD] ok"),
        ("4539-1488-0343-6467", "[CREDIT_CARD]"),
        ("374245455400126", "[CREDIT_CARD]"),
        ("GB82 WEST 1234 5698 7654 32", "[IBAN]"),
        ("to DE89370400440532013000.", "to [IBAN]."),
        ("AKIAQ3EGRZ4XY5T6K2WB", "[SECRET]"),
        ("token ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5", "token [SECRET]"),
        ("sk-proj-a8Kd93jfKs02ldkfjE93kdls", "[SECRET]"),
        ("api_key = 'f3A9kd02Lsp4Qz81mN6v'", "api_key = '[SECRET]'"),
        ('{"password": "f3A9kd02Lsp4Qz81mN6v"}', '{"password": "[SECRET]"}'),
        ("postgres://bob:Xk29dkDl3@db.host/x", "[SECRET]db.host/x"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4", "[SECRET]"),
        (
            f"-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7bq1+/' * 6}\n"
            "-----END RSA PRIVATE KEY-----\nbye",
            "[SECRET]\nbye",
        ),
    ],
)  # fmt: skip
def test_personal_data_is_found(text, after):
    assert masked(text) == [after]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "joe@example.com, you@gmail.com, a@b, user@localhost, git@github.com:x/y.git",
        "x@test.example @decorator foo @ bar.com",
        "call 212-555-0187, 123-456-7890, 000-000-0000, phone 555-1234",
        "12 +100 - 20 - 300 + 4 = 5; 1,234,567,890; 3.14159265358979; 10:22:33; 2023-11-23",
        "ISBN 978-0-306-40615-7, 1234 5678 9012 3456, 4111 1111 1111 1111",
        "10.0.0.1, 192.168.1.1, 127.0.0.1, 8.8.8.8, 256.1.1.1, v1.2.3.4, 1.2.3.4.5, fe80::1",
        "std::vector<int> abc::def a::b ::",
        "GB83 WEST 1234 5698 7654 32 and XX89370400440532013000",
        "AKIAIOSFODNN7EXAMPLE sk-xxxxxxxxxxxxxxxxxxxxxxxx api_key=YOUR_API_KEY_GOES_HERE_1",
        "password=os.environ['DB_PASSWORD'] api_key=config.settings.api_key_v2",
        "-----BEGIN PRIVATE KEY----- is how it begins",
        "https://a:b@c and 15 000 000 000 and 0.123 456 789 and $2,125,551,234",
        "1998-2004, 2004-2010; 404-2000-3 and version 2.10.14.1-rc2",
        "11 22 33 44 55 66 77 88",
        "Donatello (1386-1466), Purcell (1659-1695), approximately 900-1200 or 3.14159265359",
        "ann@example.edu, bob@mail.example.co.uk, smb://username:password@nas/x",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert masked(text) == [text]


def test_nothing_hides_what_another_rule_found():
    text = "ann@foo.io:4158675309 AKIAQ3EGRZ4XY5T6K2WB@foo.io 4539148803436467+14158675309"
    assert masked(text, kinds=("phone",))[0].count("[PHONE]") == 0  # no number stands alone
    found = hide(pl.Series([text]), KINDS).counts().row(0, named=True)
    assert (found["secret"], found["email"]) == (1, 1)


def test_allowed_pieces_stay():
    text = "help@acme.io, Ann@ACME.io, bob@other.io, +14158675309"
    allow = ("@acme.io", "+14158675309")
    assert masked(text, allow=allow) == ["help@acme.io, Ann@ACME.io, [EMAIL], +14158675309"]


def test_null_empty_and_texts_with_marks_of_their_own():
    odd = "\ue000\ue0ff ann@foo.io \ue001"
    assert masked(None, "", odd) == [None, "", "\ue000\ue0ff [EMAIL] \ue001"]
    marks, cut = marks_for(pl.Series([odd]), ["email"])
    assert marks == {"email": "\ue100"}
    assert cut == "\ue1ff"


def test_right_to_left_and_emoji():
    assert masked("اكتب إلى ann@foo.io 👍 أو +14158675309") == ["اكتب إلى [EMAIL] 👍 أو [PHONE]"]


def test_a_megabyte_of_any_kind_takes_seconds():
    """In steps of a square of its length, it would take hours."""
    texts = ["a1.b@c " * 150_000, "1" * 1_000_000, "1-" * 500_000, "+1 23 " * 160_000,
             "::a:" * 250_000, "a@" * 500_000, "password: " * 100_000, "AKIA" * 250_000,
             "-----BEGIN PRIVATE KEY-----" + "a" * 1_000_000, "ann@foo.io " * 90_000]  # fmt: skip
    found = hide(pl.Series(texts), KINDS).counts()
    assert found["email"][-1] == 90_000
    assert found["secret"][-2] == 1


# -- the filter -----


def test_rows_with_personal_data_leave_and_the_ledger_shows_none_of_it():
    table = responses(
        ("hello", "write ann@foo.io or bob@foo.io, or call 415-867-5309"),
        ("I am ann@foo.io", "Hello Ann"),
        ("hello", "hi"),
    )
    assert verdicts(PersonalData(), table) == [
        ("email", "response: email 2, phone 1"),
        ("email", "prompt: email 1"),
        (None, None),
    ]
    assert verdicts(PersonalData(most=2), table)[0][0] == "email"
    assert verdicts(PersonalData(most=3), table)[0] == (None, None)
    assert verdicts(PersonalData(on=("response",)), table)[1] == (None, None)
    assert verdicts(PersonalData(kinds=("phone",)), table)[0] == ("phone", "response: phone 1")
    asked = prompts("I am ann@foo.io", "x")
    assert verdicts(PersonalData(), asked) == [("email", "prompt: email 1"), (None, None)]


def test_either_side_of_a_pair(tmp_path):
    table = pairs(("q", "x", "ann@foo.io"), ("r", "x", "y"))
    result = run(recipe("filters.PersonalData"), one_file(table), tmp_path)
    assert ledger_of(result).select("reason", "detail").rows() == [
        ("email", "rejected: response: email 1")
    ]


def test_wrong_fields():
    with pytest.raises(ValidationError, match="nothing would be found"):
        PersonalData(kinds=())
    with pytest.raises(ValidationError, match="'secret', 'email'"):
        PersonalData(kinds=("mail",))
    with pytest.raises(ConfigError, match="prompts have no answers"):
        PersonalData(on=("response",)).needs(Shape.PROMPTS)


# -- the masks -----


def test_masks_change_texts_and_ids_and_nothing_else():
    table = responses(("q ann@foo.io", "call 415-867-5309"), ("r", "fine"), score_h=[1.0, 2.0])
    table = table.with_columns(
        prompt=messages([system("be kind"), user("q ann@foo.io")], [user("r")])
    )
    made = MaskPersonalData(mask="<{kind}>").generate(table, Context())
    assert made.dropped.height == 0
    rows = made.rows.sort("score_h")
    assert content(rows, "prompt") == ["be kind\n\nq <email>", "r"]
    assert content(rows, "response") == ["call <phone>", "fine"]
    assert rows["masked_from"].to_list() == table["response_id"].to_list()
    assert (rows["response_id"] == table["response_id"]).to_list() == [False, True]
    assert (rows["prompt_id"] == table["prompt_id"]).to_list() == [False, True]
    assert rows["score_h"].to_list() == [1.0, 2.0]
    roles = rows["prompt"].list.eval(pl.element().struct.field("role")).to_list()
    assert roles == [["system", "user"], ["user"]]


def test_null_and_empty_conversations_stay_as_they_are():
    table = responses(("q", "x"), ("r", "y")).with_columns(response=messages(None, []))
    rows = MaskPersonalData().generate(table, Context()).rows.sort("source_id")
    assert rows["response"].to_list() == [None, []]


def test_on_one_side_only():
    table = prompts("ann@foo.io")
    assert content(MaskPersonalData().generate(table, Context()).rows, "prompt") == ["[EMAIL]"]
    table = responses(("ann@foo.io", "bob@foo.io"))
    rows = MaskPersonalData(on=("response",)).generate(table, Context()).rows
    assert (content(rows, "prompt"), content(rows, "response")) == (["ann@foo.io"], ["[EMAIL]"])


def test_pairs_that_differ_in_personal_data_only_leave(tmp_path):
    table = pairs(
        ("q", "call 415-867-5309", "call 415-867-5308"),
        ("who? ann@foo.io", "a", "b"),
        ("who? bob@foo.io", "a", "b"),
        ("r", "a", "b"),
    )
    made = recipe("filters.MaskPersonalData")
    whole = run(made, one_file(table), tmp_path / "a")
    assert sorted(ledger_of(whole)["reason"]) == ["duplicate_row", "equal_answers"]
    assert view(whole, "pairs").height == 2
    cut = run(made, one_file(table.reverse()), tmp_path / "b", shard_rows=1, workers=2)
    assert digest(cut) == digest(whole)


def test_nothing_unmasked_is_published(tmp_path):
    rows = [(f"q{i} ann{i}@foo.io", f"call +1415867{i:04d}", "no") for i in range(5)]
    steps = ("filters.MaskPersonalData", "tests.steps.Length")
    result = run(recipe(*steps), one_file(pairs(*rows)), tmp_path)
    assert set(result.views) == {"pairs", "responses"}
    for name in result.views:
        table = view(result, name)
        texts = [t for c in table.columns if c in ("prompt", "response", "chosen", "rejected")
                 for t in content(table, c)]  # fmt: skip
        assert any("[EMAIL]" in t for t in texts)
        assert not any("foo.io" in t or "415867" in t for t in texts)


def test_masks_come_before_what_publishes_rows(tmp_path):
    table = responses(("q", "a"), ("q", "b bb"), score_h=[1.0, 2.0])
    made = recipe({"labelers.Pairs": {"objective": "h"}}, "filters.MaskPersonalData")
    with pytest.raises(ConfigError, match=r"must stand before labelers\.Pairs, which publishes"):
        run(made, one_file(table), tmp_path)
    made = recipe("filters.MaskPersonalData", {"labelers.Pairs": {"objective": "h"}})
    result = run(made, one_file(table), tmp_path)
    assert {name: view(result, name).height for name in result.views} == {
        "responses": 2,
        "pairs": 1,
    }


# -- presidio -----


def test_without_presidio_a_sentence_says_how_to_get_it(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(
        "filters.content.personal_data.presidio.importlib.metadata.version", missing
    )
    with pytest.raises(ConfigError, match=r"presidio-analyzer: pip install -e '\.\[pii\]'"):
        PersonalData(presidio={}).needs(Shape.RESPONSES)


def test_presidio_looks_at_what_the_rules_left():
    pytest.importorskip("presidio_analyzer")
    step = PersonalData(presidio={"entities": ["US_SSN", "URL"]})
    assert step.needs(Shape.RESPONSES) == {}
    assert step.engines()[0]["engine"] == "presidio"
    table = responses(
        ("q", "SSN 078-05-1121, ann@foo.io"), ("q", "see https://www.acme.org."), ("q", "hi")
    )
    assert verdicts(step, table) == [
        ("email", "response: email 1, us_ssn 1"),
        ("url", "response: url 1"),
        (None, None),
    ]
    rows = MaskPersonalData(presidio={"entities": ["US_SSN"]}).generate(table, Context()).rows
    assert "SSN [US_SSN], [EMAIL]" in content(rows, "response")
    with pytest.raises(ConfigError, match=r"no entity 'PERSON'.* it may need a `model`"):
        PersonalData(presidio={"entities": ["PERSON"]}).needs(Shape.RESPONSES)
    with pytest.raises(ConfigError, match=r"python -m spacy download en"):
        PersonalData(presidio={"model": "en_core_web_lg"}).needs(Shape.RESPONSES)


def test_assistant_texts_of_prompts_are_masked_too():
    table = prompts("x").with_columns(
        prompt=messages([user("mail?"), assistant("ann@foo.io"), user("thanks")])
    )
    assert content(MaskPersonalData().generate(table, Context()).rows, "prompt") == [
        "mail?\n\n[EMAIL]\n\nthanks"
    ]
