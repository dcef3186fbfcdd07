import pytest
import yaml

from catalog.card import card, size_category
from tests.helpers import PAIRS, responses


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (10**6, "1M<n<10M"),
        (10**7, "10M<n<100M"),
    ],
)
def test_size_category(rows, name):
    assert size_category(rows) == name


def test_front_matter(version):
    found = front(card(version.manifest))
    assert found["license"] == "mit"
    assert found["pretty_name"] == "tiny"
    assert found["size_categories"] == ["n<1K"]
    configs = {c["config_name"]: c for c in found["configs"]}
    assert set(configs) == {"pairs", "responses"}
    assert configs["pairs"]["default"]
    assert "default" not in configs["responses"]
    for config in configs.values():
        for entry in config["data_files"]:
            assert list(version.path.glob(entry["path"]))


def test_the_card_on_disk_is_the_card_of_the_manifest(version):
    assert (version.path / "README.md").read_text("utf-8") == card(version.manifest)


def test_what_the_card_says(version):
    text, manifest = card(version.manifest), version.manifest
    assert f"# tiny {manifest.version}\n" in text
    assert manifest.content_digest in text
    assert f'load_from_disk("tiny/{manifest.version}/pairs")' in text
    train = manifest.tables["pairs"].splits["train"]
    assert f"| pairs | train | {train} | `pair_id`, `prompt_id`" in text
    assert "| source | 60 | 60 |  |" in text


def test_what_left_is_told_with_its_reason(make):
    step = {"tests.steps.DropLong": {"limit": 28}}
    made = make(PAIRS, step, description="Some *words* — é\n\n---\nand a rule.").version
    text = card(made.manifest)
    assert "| tests.steps.DropLong | 14 | 13 | too_long 1 |" in text
    assert "Some *words* — é" in text
    assert front(text)["pretty_name"] == "tiny"
    assert "license" not in front(text)


def test_a_version_without_pairs(make):
    made = make(responses(("p", "a"), ("q", "b"))).version
    assert front(card(made.manifest))["configs"][0]["config_name"] == "responses"
    assert '/responses")' in card(made.manifest)
