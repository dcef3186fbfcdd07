"""All layouts by name, in the order in which they are tried: the most particular first."""

from __future__ import annotations

from catalog.sources.layouts import (
    ab,
    judged,
    lists,
    mt_bench,
    ours,
    pairs,
    public,
    responses,
    steps,
    transcripts,
)
from catalog.sources.layouts.base import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        ours.PREFACTORY,
        transcripts.HH,
        transcripts.HH_TEXT_SCORE,
        public.BPO,
        public.RM_BENCH,
        pairs.LISTS,
        pairs.RANKING,
        pairs.ANSWERED,
        pairs.EXPLICIT,
        pairs.MIXED,
        pairs.IMPLICIT,
        pairs.TEXT,
        responses.ULTRAFEEDBACK_RAW,
        judged.HELPSTEER3,
        judged.PANDALM,
        judged.ALPACA_EVAL_ANNOTATIONS,
        judged.LLMBAR,
        judged.TULU_HUMAN_EVAL,
        *ab.KNOWN,
        ab.REVIEWS,
        ab.TWO_SCORES,
        mt_bench.JUDGMENTS,
        mt_bench.ANSWERS,
        public.JUDGMENTS,
        lists.QA_FEEDBACK,
        lists.CHOICES,
        steps.PRM800K,
        steps.SHEPHERD,
        steps.STEPWISE,
        steps.FIRST_ERROR,
        public.PROMETHEUS,
        public.MAP_REWARDS,
        public.SOLUTIONS,
        lists.ANSWERS,
        lists.BY_KEY,
        pairs.OUTPUTS,
        responses.HELPSTEER2,
        responses.KTO,
        responses.ALPACA_EVAL,
        responses.FEEDBACK,
        responses.ALPACA,
        responses.RESPONSES,
        responses.MESSAGES,
        public.QUESTIONS,
        ours.PROMPTS,
        ab.AB,
    )
}
"""Layout name -> layout."""
