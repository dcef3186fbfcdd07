"""What people see of pictures: report, audit, dry run and preview."""

import json
import re

import pytest
from typer.testing import CliRunner

from catalog.publish import publish
from catalog.report.page import build
from catalog.versions import Catalog
from pipelines.cli.app import app
from prefactory import audit
from tests.catalog.pictures.test_image_versions import BLUE, RED, ROWS, written
from tests.helpers import recipe, run
from tests.prefactory.images.drawn import bomb, square

BROKEN = [("Broken?", "Yes.", "No.", [b"\x89PNG"]), ("Big?", "Yes.", "No.", [square("red", 900)])]
CONTRADICTION = [("Red?", "Yes.", "No.", [RED]), ("Red?", "No.", "Yes.", [RED])]


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    result = run(recipe(), written(folder, ROWS + BROKEN + CONTRADICTION), folder / "store")
    return publish(result, Catalog(root=folder / "catalog"), build).version


def images_in(html):
    return re.findall(r'<img src="([^"]+)" alt="([^"]+)"', html)


def test_the_report_shows_small_pictures_that_were_drawn_anew(version):
    html = (version.path / "report.html").read_text()
    shown = images_in(html)
    assert len(shown) == sum(len(r[3]) for r in ROWS + BROKEN + CONTRADICTION) - 1
    assert all(url.startswith("data:image/jpeg;base64,") for url, _ in shown)
    assert max(len(url) for url, _ in shown) < 12_000
    assert "PNG picture, 4 bytes, can&#39;t be opened" in html
    assert "img-src data:" in html
    assert "<image:" not in html


def test_the_audit_shows_the_pictures_of_its_examples(version):
    seen = audit(version)
    finding = next(f for f in seen.findings if f.check == "contradictions")
    assert finding.rows.height == 2  # one picture; the other questions alike are none
    assert images_in(seen.page)
    assert "<image:" not in seen.page
    assert "<image:" not in seen.to_json()


def test_rows_that_differ_in_the_picture_only_are_no_duplicates_for_the_audit(tmp_path):
    rows = [("Red?", "Yes.", "No.", [RED]), ("Red?", "Yes.", "No.", [BLUE])]
    written(tmp_path, rows)
    seen = audit(str(tmp_path / "rows.parquet"))
    found = {f.check: f.rows.height for f in seen.findings}
    assert found["duplicates"] == found["contradictions"] == 0


@pytest.mark.parametrize("words", [["--json"], []])
def test_a_dry_run_shows_size_and_type(tmp_path, words):
    written(tmp_path, ROWS[:1])
    path = str(tmp_path / "rows.parquet")
    done = CliRunner().invoke(app, ["import", path, "--dry-run", *words])
    assert done.exit_code == 0, done.output
    assert f"PNG picture, 12 x 12, {len(RED)} bytes" in done.output


def test_preview_shows_size_and_type(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    written(tmp_path, ROWS[:2])
    (tmp_path / "r.yaml").write_text("name: x\nsource: {path: rows.parquet}\nsteps: []\n")
    for words in ([], ["--json"]):
        done = CliRunner().invoke(app, ["preview", str(tmp_path / "r.yaml"), *words])
        assert done.exit_code == 0, done.output
        assert "PNG picture, 12 x 12, " in done.output
    first = json.loads(done.output)["tables"]["pairs"][0]
    assert first["prompt"][0]["content"] == "<image>What colour is it?"


def test_a_bomb_costs_its_row_only(tmp_path):
    written(tmp_path, [("Bomb?", "Yes.", "No.", [bomb()]), *ROWS[:2]])
    done = CliRunner().invoke(app, ["import", str(tmp_path / "rows.parquet"), "--dry-run"])
    assert "2 rows, 1 image_too_large" in done.output


def test_the_command_line_allows_a_folder(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    row = {"prompt": "Red?", "chosen": "Yes.", "rejected": "No.", "image": "red.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ["import", str(tmp_path / "rows.jsonl"), "--dry-run"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code != 0
    done = CliRunner().invoke(app, [*words, "--image-folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "image as images" in done.output
    assert "PNG picture, 12 x 12" in done.output


@pytest.mark.parametrize(
    "step", [{"filters.NearDuplicates": {}}, {"filters.SemanticDuplicates": {"threshold": 0.8}}]
)
def test_rows_about_other_pictures_are_no_near_duplicates(tmp_path, step):
    from prefactory.run import execute
    from prefactory.stages import Options, thread_mapper
    from prefactory.store import Store
    from prefactory.testing.applied import word_vectors

    words = " ".join(f"word{i}" for i in range(120))
    about = [(f"What is it, {words}?", RED), (f"What is it, {words}?", BLUE),
             (f"What is it? {words}?", RED)]  # fmt: skip
    rows = [(asked, "One thing.", "Two things.", [data]) for asked, data in about]
    made = recipe(step, publish={"test_fraction": 0})
    options = Options(embed=word_vectors)
    store = Store(tmp_path / "store")
    result = execute(made, [written(tmp_path, rows)], store, thread_mapper(1), options)
    assert result.stages[-1].rows_out == 2  # one for each picture


def test_training_on_texts_refuses_prompts_with_pictures(version):
    from prefactory.errors import DataError
    from trainers.base import DatasetRef

    with pytest.raises(DataError, match="have pictures, and models are trained on texts here"):
        DatasetRef(version).pairs("train")
