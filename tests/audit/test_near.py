"""Near-duplicates of the audit: prompts are read once."""

import numpy as np
import polars as pl

from audit.near import reduced, reduced_prompts

PROMPTS = ["What is a \u201cday\u201d?", "Why not?", "", "Tell me more of it, please"]


def test_hashes_of_prompts_are_those_of_reading_them_alone():
    texts = {"prompt": pl.Series(PROMPTS), "chosen": pl.Series(["a b", "c", "d", "e"])}
    rows = np.array([0, 2, 3])
    alone = reduced({"prompt": texts["prompt"].gather(rows)})
    assert reduced_prompts(reduced(texts), rows).select(alone.columns).equals(alone)
    assert reduced_prompts(reduced({"prompt": texts["prompt"]}), rows).equals(alone)
