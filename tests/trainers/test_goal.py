"""Reward-augmented DPO: the data's words for a goal go with the model that was trained on them."""

import json

import jinja2
import pytest
import torch
from transformers import AutoTokenizer

from labelers.pairs.reward_goal import ROLE, goal_message
from pipelines.settings import Settings
from pipelines.training import METHODS, train
from pipelines.training.smoke import _made, _pairs, smoke_train
from prefactory.errors import ConfigError, DataError
from trainers import DatasetRef, GoalDPO
from trainers.methods.goal import asking, goal_of

BEST = goal_message({"quality": 10.0}, (1.0, 10.0))
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def said(template, *messages):
    rendered = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    return rendered.render(messages=[{"role": r, "content": c} for r, c in messages])


def test_a_template_asks_for_the_best_score_unless_a_score_is_named():
    template = asking(PLAIN, BEST, ROLE)
    assert said(template, ("user", "Why?")) == f"[system]{BEST}[user]Why?"
    own = said(template, ("system", "Be brief."), ("user", "Why?"))
    assert own == f"[system]Be brief.\n\n{BEST}[user]Why?"
    low = goal_message({"quality": 3.5}, (1.0, 10.0))
    for system in (low, f"Be brief.\n\n{low}"):
        named = ("system", system), ("user", "Why?")
        assert said(template, *named) == said(PLAIN, *named), "nothing is added"
    quoted = 'Say "é" \\ {{ x }}\n😀'
    assert said(asking(PLAIN, quoted, ROLE), ("user", "Why?")) == f"[system]{quoted}[user]Why?"


def test_data_without_the_words_of_its_goals_is_refused(version):
    with pytest.raises(DataError, match=r"labelers.RewardAugmented"):
        goal_of(DatasetRef.from_path(version))


@pytest.mark.slow
def test_the_words_go_from_the_data_into_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = Settings(tmp_path / "home")
    out = tmp_path / "m"
    done = smoke_train("goal-dpo", METHODS["goal-dpo"], {}, None, None, out, settings)
    assert {"accuracy_high", "accuracy_low"} <= done.facts["facts"].keys()
    tokenizer = AutoTokenizer.from_pretrained(out)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert BEST in asked
    assert json.loads((out / "goal.json").read_text())["best"] == BEST
    assert "asks for the best score" in (out / "README.md").read_text()
    version = _made(tmp_path, _pairs(), [])
    with pytest.raises(ConfigError, match=r"goal_pairs.*labelers.RewardAugmented makes it"):
        train("goal-dpo", GoalDPO(model="x"), version, settings, tmp_path / "other")
