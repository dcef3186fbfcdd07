"""A real (tiny) model as the reference of an audit: its own answers are as likely as its own."""

import polars as pl
import pytest

from pipelines.settings import Settings
from pipelines.training.reference import reference
from prefactory.tables import Shape, with_ids
from tests.helpers import assistant, tiny_llama, user


def pairs(prompts, chosen):
    rows = [
        {"prompt": [user(p)], "chosen": c, "rejected": [assistant("No, go away.")]}
        for p, c in zip(prompts, chosen, strict=True)
    ]
    return with_ids(pl.DataFrame(rows), Shape.PAIRS)


@pytest.mark.slow
def test_what_the_reference_says_itself_has_no_gap(tmp_path, monkeypatch):
    from pipelines.training import reference as module

    said = {}
    asked = module.answers_of

    def remembered(*words):
        found = asked(*words)
        said.update(found.select("prompt_id", "text").iter_rows())
        return found

    monkeypatch.setattr(module, "answers_of", remembered)
    monkeypatch.setattr(module, "OWN", module.OWN.model_copy(update={"max_tokens": 12}))
    model = tiny_llama(tmp_path / "tiny")
    ask = reference(str(model), Settings(tmp_path / "home"), 10).ask
    prompts = [f"question {i} about taxes" for i in range(4)]
    first = pairs(prompts, [[assistant("Certainly.")]] * 4)
    one = ask(first, 0)
    assert one.height == 4
    assert (one["chosen"] < 0).all()
    assert one["chosen"].n_unique() > 1, "the prompt counts"
    mine = [[assistant(said[i])] for i in first["prompt_id"]]
    two = ask(pairs(prompts, mine), 0)
    assert two["own"].to_list() == pytest.approx(two["chosen"].to_list(), abs=1e-6)
