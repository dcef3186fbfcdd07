import pytest

from audit import Gates, Intake, Severity, audit, load_gates
from audit.gates import parse_gates
from prefactory import yamllines
from prefactory.errors import ConfigError
from tests.audit.cases import NO_EMBEDDING, clean, table

BAD = table([("p", "one", "two"), ("p", "two", "one"), ("q", "a", "b"), ("r", "c", "d")])


def gates(text):
    return parse_gates(
        *yamllines.load(text, "gates.yaml")[:1], "gates.yaml", yamllines.load(text, "gates.yaml")[1]
    )


def failed(text, data=BAD):
    found = audit(data, NO_EMBEDDING, Intake(license="mit"), gates(text))
    return {f.gate: f.why for f in found.failures}


def test_bounds_on_metrics():
    why = failed(
        "gates: {contradictions.pairs: {max: 0.1}, identical.pairs: 0, duplicates.rows: 0.5}"
    )
    assert why == {"contradictions.pairs": "pairs is 0.3333 (0.04526 to 0.8406), not at most 0.1"}


def test_a_bound_may_judge_the_interval():
    assert failed("gates: {contradictions.pairs: {max: 0.3, evidence: true}}") == {}
    assert failed("gates: {contradictions.pairs: {max: 0.04, evidence: true}}")
    assert failed("gates: {contradictions.pairs: {min: 0.6}}")
    assert failed("gates: {contradictions.pairs: {min: 0.6, evidence: true}}") == {}


def test_severities_of_checks_and_of_all():
    assert set(failed("gates: {contradictions: warning}")) == {"contradictions"}
    assert failed("gates: {duplicates: warning}") == {}
    everything = failed("gates: {any: fault}")
    assert set(everything) == {"any"}
    assert everything["any"].startswith("contradictions is a fault")
    assert failed("gates: {any: fault}", clean(60)) == {}


def test_what_was_not_measured_fails_unless_optional():
    why = failed("gates: {separability.paired: {max: 0.9}, agreement.ece: 0.1}")
    assert why["separability.paired"].startswith("was not measured: a probe needs 40 answers")
    assert why["agreement.ece"] == "was not measured: there are no scores on both answers"
    assert failed("gates: {separability.paired: {max: 0.9, optional: true}}") == {}
    off = failed("gates: {separability.paired: 0.9}", clean(60))
    assert off["separability.paired"].endswith("switched off (--no-embeddings)")


def test_a_gate_on_a_family_holds_for_each_member():
    data = clean(
        10,
        chosen_score_reward=[0.0] * 5 + [2.0] * 5,
        rejected_score_reward=[1.0] * 10,
        margin=[1.0] * 10,
    )
    why = failed("gates: {scores.contradictions: 0.1}", data)
    assert why["scores.contradictions"].startswith("contradictions:reward is 0.5")
    assert failed("gates: {'scores.contradictions:margin': 0.1}", data) == {}


def test_limits_are_overridden():
    text = "limits: {contradictions.pairs: {note: [null, 0.6], warning: [null, 0.7]}}"
    assert (
        audit(BAD, NO_EMBEDDING, gates=gates(text)).finding("contradictions").severity
        == Severity.OK
    )
    strict = "limits: {refusals.chosen: {fault: [0.5, null]}}"
    found = audit(clean(60), NO_EMBEDDING, gates=gates(strict)).finding("refusals")
    assert found.severity is Severity.FAULT
    assert found.because == "chosen is outside 0.5 or more"


def test_every_mistake_at_once_with_line_and_nearest_name(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text(
        "gates:\n"
        "  baselins.longer: {max: 0.6}\n"
        "  baselines.longr: {max: 0.6}\n"
        "  duplicate: warning\n"
        "  schema: faul\n"
        "  empty.answers: {mx: 0.1}\n"
        "  identical.pairs: {}\n"
        "  refusals.gap: {min: 0.5, max: 0.1}\n"
        "  style: 3\n"
        "limts: {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_gates(path)
    text = "\n".join(caught.value.problems)
    for words in (
        "gates.yaml: line 2: unknown check 'baselins'; did you mean 'baselines'?",
        "line 3: baselines has no metric 'longr'; did you mean 'longer'?",
        "line 4: unknown check 'duplicate'; did you mean 'duplicates'?",
        "line 5: unknown severity 'faul'; did you mean 'fault'?",
        "line 6: empty.answers: unknown key 'mx'; did you mean 'max'?",
        "line 7: identical.pairs: says neither min nor max",
        "line 8: refusals.gap: min is above max",
        "line 9: style has no value here: write check.metric",
        "line 10: unknown key 'limts'; did you mean 'limits'?",
    ):
        assert words in text


@pytest.mark.parametrize(
    "text", ["", "- a\n", "gates: [a]\n", "gates: {a.b: {max: nan}}\n", "gates: {"]
)
def test_what_is_no_gates_file(tmp_path, text):
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"gates\.yaml"):
        load_gates(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load_gates(tmp_path / "none.yaml")


def test_no_gates_hold_for_anything():
    assert Gates().failures(audit(BAD, NO_EMBEDDING).findings) == []
