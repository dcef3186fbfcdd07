"""Transfer Q*: the rule, a toy tree by hand, greedy at weight 0, a tiny Llama that is steered."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from generators import ValueGuided
from generators.value_guided.model import Rule, choose, decode, indirect, values
from generators.value_guided.step import Reward
from prefactory.engines.base import Sampling
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError, DataError
from tests.generators.sampling import asked_run
from tests.helpers import content, digest, ledger_of, prompts, recipe, tiny_llama, view

HERE = __name__
END = 99


def array(*numbers):
    return np.array(numbers, dtype=np.float64)


# -- the rule -----


def test_the_rule_by_hand():
    logits, rewards = array(3, 2, 1), array(0, 1, 5)
    assert values(logits, rewards, 2.0).tolist() == [3, 4, 11]
    assert [choose(logits, rewards, w) for w in (0.0, 0.3, 0.6, 2.0)] == [0, 0, 2, 2]
    assert choose(array(1, 1), array(1, 1), 5.0) == 0  # equal ones: the first, likelier one


def test_standardised_rewards_have_no_scale():
    logits = array(1, 0.5, 0)
    for scale, shift in ((1, 0), (1000, 5), (1e-6, -3)):
        rewards = scale * array(0, 1, 2) + shift
        assert np.allclose(
            values(logits, rewards, 1.0, standardise=True) - logits, [-1.224745, 0, 1.224745]
        )
    for flat in (array(7, 7, 7), array(0.1, 0.1, 0.1), array(0, 0, 0)):
        assert values(logits, flat, 9.0, standardise=True).tolist() == logits.tolist()


@given(st.floats(0, 0.999999))
def test_a_draw_has_the_shares_of_a_softmax(point):
    logits, rewards = array(1, 0, -1), array(0, 1, 0)
    shares = np.exp(logits + rewards)
    edges = np.cumsum(shares / shares.sum())
    place = choose(logits, rewards, 1.0, temperature=1.0, point=point)
    assert place == min(int((point >= edges).sum()), 2)
    assert choose(logits, rewards, 1.0, temperature=1e-3, point=point) in (0, 1)


def test_the_indirect_form_by_hand():
    rewards, own = array(1, 2, 3), array(3, 2, 1)
    weighed = np.exp([-1, 0, 1]) * rewards  # exp(.5 (r2 - r1)) r2
    assert np.allclose(indirect(rewards, own, 0.5), weighed)
    assert np.allclose(indirect(rewards, own, 0.0), rewards)
    assert np.allclose(indirect(rewards, rewards, 0.5), rewards)  # one reward: the direct form
    z = array(-1.224745, 0, 1.224745)
    for scale, shift in ((1, 0), (1000, 5)):
        found = indirect(scale * rewards + shift, own, 0.5, standardise=True)
        assert np.allclose(found, np.exp(z) * z, atol=1e-5)
    assert np.isfinite(indirect(array(1e9, 0), array(0, 1e9), 0.5)).all()


# -- a toy tree: the likelier branch has the poorer leaf -----


class Tree:
    """Two tokens and an end; logits by prefix, likeliest first."""

    table: ClassVar = {
        (): [(0, 1.0), (1, 0.0)],
        (0,): [(0, 1.0), (1, 0.5)],
        (1,): [(0, 2.0), (1, 0.0)],
    }

    def __init__(self):
        self.prefix = ()
        self.rolled = 0

    def _at(self, prefix):
        return self.table.get(prefix, [(END, 0.0)])

    def propose(self):
        tokens, logits = zip(*self._at(self.prefix), strict=True)
        return list(tokens), array(*logits)

    def roll(self, tokens):
        self.rolled += 1
        tails = []
        for token in tokens:
            prefix, tail = (*self.prefix, token), []
            while token != END and (newest := self._at(prefix)[0][0]) != END:
                tail.append(newest)
                prefix = (*prefix, newest)
            tails.append(tail)
        return tails

    def advance(self, token):
        self.prefix = (*self.prefix, token)


LEAVES = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 3.0, (1, 1): 2.0}


def grown(weight, max_tokens=9, **fields):
    tree = Tree()
    rule = Rule(weight, **{"standardise": False, **fields})
    rng = np.random.default_rng(0)

    def reward(rows):
        return array(*[LEAVES[tuple(r)] for r in rows])

    return (*decode(tree, reward, rule, {END}, max_tokens, rng), tree.rolled)


def test_a_large_weight_takes_the_branch_with_the_best_leaf():
    assert grown(0.0) == ([0, 0], "stop", 0)  # greedy, and nobody asked for a reward
    assert grown(10.0)[:2] == ([1, 0], "stop")
    assert grown(10.0, standardise=True)[:2] == ([1, 0], "stop")
    # by hand: at the root 1 + 0 w against 0 + 3 w; below the left branch 1 against 0.5 + w
    assert grown(0.3)[0] == [0, 0]
    assert grown(0.34)[0] == [1, 0]


def test_the_number_of_tokens_is_a_limit():
    assert grown(0.0, max_tokens=1)[:2] == ([0], "length")
    assert grown(10.0, max_tokens=1)[:2] == ([1], "length")


def test_what_the_model_was_aligned_to_is_weighed_out():
    rules = Rule(1.0, standardise=False)
    left = {(0, 0): 3.0, (0, 1): 3.0, (1, 0): 2.0, (1, 1): 2.0}  # the reward of the model itself

    def grown_under(own):
        def reward(rows):
            two = array(*[{**left, (1, 0): 2.5}[tuple(r)] for r in rows])
            return two if own is None else indirect(two, array(*[own[tuple(r)] for r in rows]), 0.5)

        return decode(Tree(), reward, rules, {END}, 9, np.random.default_rng(0))[0]

    # at the root: 1 + 3 against 0 + 2.5; indirectly 1 + 3 against 0 + exp(.25) 2.5 = 3.21
    assert grown_under(None)[0] == 0
    assert grown_under(left)[0] == 0
    # where the model's own reward favours the left by 2 more: 1 + exp(-1) 3 = 2.10 against 3.21
    assert grown_under({k: v + 2 * (k[0] == 0) for k, v in left.items()})[0] == 1


def test_a_temperature_draws():
    seen = set()
    for seed in range(40):
        rule, rng = Rule(0.0, temperature=5.0), np.random.default_rng(seed)
        seen.add(tuple(decode(Tree(), lambda rows: array(), rule, {END}, 9, rng)[0]))
    assert seen == set(LEAVES)


# -- a model -----

TABLE = prompts("certainly", "please go", "away " * 15, "😀", "")


def vowels(conversation, texts):
    return [sum(c in "ea" for c in text) for text in texts]


def nothing(conversation, texts):
    return [float("nan") for _ in texts]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("llama")))


def answers(llama, folder, shard_rows=1000, table=TABLE, reward=None, temperature=0.0, **fields):
    step = {
        "model": {"engine": "transformers", "model": llama, "precision": "fp32", "threads": 2},
        "reward": reward or {"function": f"{HERE}.vowels"},
        "sampling": {"temperature": temperature, "max_tokens": 8},
        **{"candidates": 4, "rollout": 3, "gate": "keep", **fields},
    }
    with Session(folder / "journal") as engines:
        asked = recipe({"generators.ValueGuided": step})
        return asked_run(asked, table, folder, shard_rows, engine=engines.engine)


def test_weight_0_is_greedy_decoding(tmp_path, llama):
    config = Transformers(model=llama, precision="fp32")
    with config.open() as engine:
        conversations = TABLE["prompt"].to_list()
        plain = engine.generate(conversations, Sampling(temperature=0, max_tokens=8))
    wanted = {i: r.text.strip() for i, (r,) in zip(TABLE["prompt_id"], plain, strict=True)}
    result = answers(llama, tmp_path, weight=0)
    rows = view(result, "responses")
    found = dict(zip(rows["prompt_id"], content(rows, "response"), strict=True))
    found |= dict.fromkeys(ledger_of(result)["row_id"], "")
    assert found == wanted
    assert set(rows["model"]) == {f"{llama}+guided"}


def test_a_reward_steers_and_shards_change_nothing(tmp_path, llama):
    greedy = view(answers(llama, tmp_path / "greedy", weight=0), "responses")
    whole = answers(llama, tmp_path / "whole", weight=50, name="steered")
    guided = view(whole, "responses")

    def mean(rows):
        return sum(vowels(None, content(rows, "response"))) / rows.height

    assert mean(guided) > mean(greedy) + 1
    assert set(guided["model"]) == {"steered"}
    single = answers(llama, tmp_path / "single", 1, TABLE[::-1], weight=50, name="steered")
    assert digest(single) == digest(whole)


def consonants(conversation, texts):
    return [
        sum(c.isalpha() for c in text) - v for text, v in zip(texts, vowels(0, texts), strict=True)
    ]


def test_a_reward_of_the_model_itself(tmp_path, llama):
    def texts(name, **fields):
        return content(
            view(answers(llama, tmp_path / name, weight=50, **fields), "responses"), "response"
        )

    direct = texts("direct")
    assert texts("same", baseline_reward={"function": f"{HERE}.vowels"}) == direct
    assert texts("other", baseline_reward={"function": f"{HERE}.consonants"}) != direct
    with pytest.raises(DataError, match="the baseline reward gave"):
        texts("none", baseline_reward={"function": f"{HERE}.nothing"})


def test_several_answers_draw_apart(tmp_path, llama):
    rows = view(answers(llama, tmp_path, n=2, temperature=2.0), "responses")
    assert rows.height > TABLE.height
    again = view(answers(llama, tmp_path / "b", 1, n=2, temperature=2.0), "responses")
    assert again.equals(rows)


def test_a_reward_model(tmp_path, llama):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    folder = tmp_path / "reward"
    set_seed(1)
    AutoModelForSequenceClassification.from_pretrained(llama, num_labels=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama).save_pretrained(folder)
    one = view(
        answers(llama, tmp_path / "a", reward={"model": str(folder)}, weight=20), "responses"
    )
    two = answers(llama, tmp_path / "b", 1, reward={"model": str(folder)}, weight=20)
    assert view(two, "responses").equals(one)
    net = Reward(model=str(folder), head=1).open()
    chat = [{"role": "user", "content": "please"}]
    alone = [net(chat, [t])[0] for t in ("go", "away away away", "")]
    assert np.allclose(net(chat, ["go", "away away away", ""]), alone, atol=1e-5)
    with pytest.raises(ConfigError, match="has 2 heads"):
        Reward(model=str(folder), head=2).open()
    with pytest.raises(ConfigError, match="lacks weights"):
        Reward(model=llama).open()


def test_wrong_rewards_are_named(tmp_path, llama):
    with pytest.raises(DataError, match="one finite number for each"):
        answers(llama, tmp_path, reward={"function": f"{HERE}.nothing"})
    for path in ("no.such.place", f"{HERE}.HERE"):
        with pytest.raises(ConfigError, match="reward"):
            Reward(function=path).open()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"reward": {}}, "either"),
        ({"reward": {"model": "a", "function": "b"}}, "either"),
        ({"n": 2}, "temperature 0"),
        ({"weight": -1}, "greater than or equal"),
        ({"model": {"engine": "scripted"}}, "transformers"),
    ],
)
def test_fields_are_checked(fields, text):
    base = {"model": {"engine": "transformers", "model": "m"}, "reward": {"function": "a.b"}}
    with pytest.raises(ValidationError, match=text):
        ValueGuided(**{**base, **fields})
