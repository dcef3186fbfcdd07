"""All layouts by name, in the order in which they are tried: the most particular first."""

from __future__ import annotations

from catalog.sources.layouts import judged, mt_bench, ours, pairs, responses, transcripts
from catalog.sources.layouts.base import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        ours.PREFACTORY,
        transcripts.HH,
        transcripts.HH_TEXT_SCORE,
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
        mt_bench.JUDGMENTS,
        mt_bench.ANSWERS,
        responses.HELPSTEER2,
        responses.KTO,
        responses.ALPACA_EVAL,
        responses.ALPACA,
        responses.RESPONSES,
        responses.MESSAGES,
        ours.PROMPTS,
    )
}
"""Layout name -> layout."""
