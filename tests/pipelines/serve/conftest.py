"""A home with two versions of a dataset, what people said of it, a model, and hostile texts."""

import json

import pytest

import filters
import labelers
from pipelines.api import Recipe
from pipelines.review.making import make as make_review
from pipelines.review.publishing import publish
from pipelines.settings import Settings as Home
from review import people
from review.assignments import next_assignment
from review.settings import Settings
from review.votes import Answer, vote
from tests.review.test_app import EVIL


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="package")
def home(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("served"))


def filled(folder):
    """The home, in a folder."""
    home = folder / "home"
    evil = EVIL.replace("\x00", "")
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": f"Bad answer {i}."}
        for i in range(14)
    ]
    rows.append({"prompt": evil, "chosen": evil + " A", "rejected": evil + " B"})
    rows.append({"prompt": "Short?", "chosen": "x", "rejected": "Some other answer."})
    source = {"path": str(write(folder / "pairs.jsonl", rows)), "layout": "auto"}
    steps = [filters.Length(min_characters=3), labelers.TextStatistics()]
    publishing = {"pays": False}
    first = Recipe("talks", source=source, steps=steps, publish=publishing).run(home)
    review = make_review(first.ref, Settings(rows=4), home=home)
    ada = people.by_token(review, people.invite(review, "Ada Lovelace"))
    sides = ["second", "first", "tie", "first"]
    for side in sides:
        held = next_assignment(review, ada, review.settings)
        answer = Answer(side, 2 * (side != "tie"), {"comment": EVIL} if side == "tie" else {})
        vote(review, ada, held["id"], answer, nonce=f"{side}{held['id']}", guideline=0)
    publish(review, home=home)
    review.db.close()
    model = home / "models" / "talks-reward-1"
    model.mkdir(parents=True)
    facts = {
        "method": "reward", "config": {"model": EVIL, "epochs": 1}, "facts": {"loss": 0.25},
        "dataset": {
            "name": "talks", "version": first.manifest.version, "rows": 12,
            "content_digest": first.manifest.content_digest,
        },
        "metrics": {"test": {"accuracy": 0.75, "accuracy_se": 0.2, "pairs": 4}},
    }  # fmt: skip
    (model / "training.json").write_text(json.dumps(facts))
    (model / "report.html").write_text("<title>trained</title><script>alert(1)</script>")
    return Home(home)
