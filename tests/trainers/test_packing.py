"""Packing in balance: every row there, one of each domain a chunk, and what a window may see."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.errors import ConfigError
from tests.helpers import tiny_llama
from trainers.packing import PAD, attention_mask, pack_balanced


def rows_of(*lengths, start=1):
    """Rows of distinct tokens."""
    rows = []
    for length in lengths:
        rows.append(list(range(start, start + length)))
        start += length
    return rows


def unpacked(packed):
    """Tokens of each packed row, as (row, tokens), read off the windows."""
    found = []
    for tokens, positions, ids in zip(
        packed.input_ids, packed.position_ids, packed.row_ids, strict=True
    ):
        starts = np.flatnonzero((positions == 0) & (ids != PAD))
        used = int((ids != PAD).sum())
        for start, stop in zip(starts, [*starts[1:], used], strict=True):
            assert len(set(ids[start:stop])) == 1
            assert positions[start:stop].tolist() == list(range(stop - start))
            found.append((int(ids[start]), tokens[start:stop].tolist()))
    return found


def test_a_chunk_has_one_row_of_each_domain_the_default_first():
    rows = rows_of(*[3] * 12)
    domains = ["code", "math", "default", "law"] * 3
    packed = pack_balanced(rows, domains, 24, seed=1)
    assert packed.input_ids.shape == (2, 24)
    assert packed.uses.tolist() == [1] * 12
    orders = set()
    for chunk in range(3):
        places = packed.chunk_ids == chunk
        ids = list(dict.fromkeys(packed.row_ids[places].tolist()))
        order = [domains[i] for i in ids]
        assert order[0] == "default"
        assert sorted(order) == ["code", "default", "law", "math"]
        orders.add(tuple(order))
    assert len(orders) > 1
    for window in packed.row_ids:
        counts = Counter(domains[i] for i in dict.fromkeys(window.tolist()) if i != PAD)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_small_domains_come_again_and_are_logged():
    rows = rows_of(*[2] * 11)
    domains = ["big"] * 10 + ["small"]
    packed = pack_balanced(rows, domains, 4)
    assert packed.uses.tolist() == [1] * 10 + [4]  # once, and three times again
    assert packed.repeated == (10,)
    assert pack_balanced(rows, domains, 4, repeats=0).uses.tolist() == [1] * 11
    assert pack_balanced(rows, domains, 4, repeats=100).uses.tolist() == [1] * 10 + [10]


def test_long_rows_lose_their_beginning_and_empty_ones_are_left_out():
    packed = pack_balanced([[1, 2, 3, 4, 5], [], [6]], ["a", "a", "b"], 3)
    assert dict(unpacked(packed)) == {0: [3, 4, 5], 2: [6]}
    assert packed.truncated == (0,)
    assert packed.uses.tolist() == [1, 0, 1]


def test_what_does_not_fit_opens_the_next_chunk():
    packed = pack_balanced(rows_of(4, 4, 4), ["a", "b", "c"], 8)
    assert packed.chunk_ids.max() == 1
    assert packed.input_ids.shape == (2, 8)
    two = pack_balanced(rows_of(1, 1, 1, 1), ["a", "b", "c", "d"], 8, chunk=2)
    assert np.unique(two.chunk_ids[two.chunk_ids != PAD], return_counts=True)[1].tolist() == [2, 2]


def test_windows_by_first_fit_decreasing():
    packed = pack_balanced(rows_of(5, 4, 3, 2, 2), ["a"] * 5, 8, seed=3)
    sizes = [[len(t) for _, t in unpacked(w)] for w in _windows(packed)]
    assert sizes == [[5, 3], [4, 2, 2]]
    assert packed.filled == 1.0


def _windows(packed):
    from dataclasses import replace

    for b in range(len(packed.input_ids)):
        cut = {
            n: getattr(packed, n)[b : b + 1]
            for n in ("input_ids", "position_ids", "row_ids", "chunk_ids")
        }
        yield replace(packed, **cut)


def test_nothing_at_all():
    packed = pack_balanced([], [], 8)
    assert packed.input_ids.shape == (0, 8)
    assert packed.filled == 0.0
    assert attention_mask(packed).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], [], 4), "1 rows but 0 domains"),
        (([[1]], ["a"], 0), "seq_len=0"),
        (([[1]], ["a"], 4, 0), "chunk=0"),
        (([[1]], ["a"], 4, None, "default", -1), "repeats=-1"),
    ],
)
def test_numbers_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        pack_balanced(*arguments)


DOMAINS = st.sampled_from(["default", "a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), DOMAINS), max_size=30),
    st.integers(1, 12),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_every_row_is_there_at_least_once(drawn, seq_len, chunk, repeats, seed):
    rows = rows_of(*[length for length, _ in drawn])
    domains = [domain for _, domain in drawn]
    packed = pack_balanced(rows, domains, seq_len, chunk, repeats=repeats, seed=seed)
    found = unpacked(packed)
    assert all(tokens == rows[row][-seq_len:] for row, tokens in found)
    counts = Counter(row for row, _ in found)
    assert [counts[i] for i in range(len(rows))] == packed.uses.tolist()
    for row, uses in zip(rows, packed.uses, strict=True):
        assert (1 <= uses <= repeats + 1) if row else uses == 0
    assert packed.truncated == tuple(i for i, row in enumerate(rows) if len(row) > seq_len)
    if len({d for r, d in zip(rows, domains, strict=True) if r}) <= 1:
        assert packed.repeated == ()
    again = pack_balanced(rows, domains, seq_len, chunk, repeats=repeats, seed=seed)
    assert (again.input_ids == packed.input_ids).all()


# -- masks -----


def test_masks():
    packed = pack_balanced([[1, 2], [3]], ["default", "b"], 4)
    assert packed.row_ids.tolist() == [[0, 0, 1, PAD]]
    t, f = True, False
    assert attention_mask(packed, "row")[0].tolist() == [
        [t, f, f, f], [t, t, f, f], [f, f, t, f], [f, f, f, t],
    ]  # fmt: skip
    assert attention_mask(packed, "chunk")[0].tolist() == [
        [t, f, f, f], [t, t, f, f], [t, t, t, f], [f, f, f, t],
    ]  # fmt: skip
    split = pack_balanced([[1, 2], [3]], ["default", "b"], 4, chunk=1)
    assert (attention_mask(split, "chunk") == attention_mask(split, "row")).all()
    assert (attention_mask(split, "none") == attention_mask(packed, "chunk")).all()


def test_a_row_that_comes_twice_in_a_window_sees_itself_once():
    packed = pack_balanced([[1], [2], [3]], ["a", "a", "b"], 8)
    assert sorted(packed.row_ids[0].tolist()) == [PAD] * 4 + [0, 1, 2, 2]
    assert attention_mask(packed)[0].sum() == 8  # the diagonal alone


@pytest.mark.parametrize("use", ["dpo", "reward"])
@pytest.mark.parametrize("mode", ["chunk", "none"])
def test_pairs_never_see_each_other(use, mode):
    packed = pack_balanced([[1], [2]], ["a", "b"], 4)
    with pytest.raises(ConfigError, match="gives a pair's answers away"):
        attention_mask(packed, mode, use)
    assert attention_mask(packed, "row", use)[0].sum() == 4


def test_a_models_logits_on_packed_rows_are_those_of_the_rows_alone(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    tiny_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 60, n).tolist() for n in (7, 3, 5, 1, 6)]
    packed = pack_balanced(rows, ["default", "a", "b", "a", "b"], 16)

    def logits(mode):
        mask = torch.from_numpy(attention_mask(packed, mode))[:, None]
        bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        with torch.no_grad():
            return model(
                torch.from_numpy(packed.input_ids).long(),
                attention_mask=bias,
                position_ids=torch.from_numpy(packed.position_ids).long(),
            ).logits

    def worst(mode):
        found, gaps = logits(mode), []
        for b, ids in enumerate(packed.row_ids):
            for row in set(ids.tolist()) - {PAD}:
                with torch.no_grad():
                    alone = model(torch.tensor([rows[row]])).logits[0]
                gaps.append(float((found[b][torch.from_numpy(ids == row)] - alone).abs().max()))
        return max(gaps)

    assert worst("row") < 1e-5
    assert worst("none") > 1e-4
