"""The first recipe for a source: written after a look at it, with the reasons as comments."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from catalog.sources import OpenSource, Peek, SourceSpec, account_lines, open_source, peek
from prefactory.tables import Shape, is_score

HEAD = """\
# Started by `prefactory init` for {source}.
#   prefactory plan {recipe}      # what will happen; every mistake with its line
#   prefactory run {recipe}       # run it again to resume, or to change nothing
#   prefactory steps              # all steps; `prefactory steps NAME` shows one with its fields
name: {name}
seed: 7

source:
  path: {path}
  layout: {layout}{mapping}{columns}
  # license: ...                  # of the rows, for the dataset's card

steps:
"""
PAIRS = """\
  # Rows that can't teach leave, each with a reason in the ledger.
  - filters.Quality: {}
  - filters.NearDuplicates: {}
  # Scores without a judge: relevance, length and repetition of every answer.
  - labelers.R3: {}
  # Fewer rows? Take a tenth at random, and compare anything cleverer with it.
  # - filters.RandomSubsample: {fraction: 0.1}
"""
RATED = """\
  - filters.Quality: {{}}
  - filters.NearDuplicates: {{}}
  # Every better answer with every worse one of the same prompt.
  - labelers.Pairs: {{objective: {objective}, strategy: all, label_source: judge}}
"""
UNRATED = """\
  - filters.Quality: {}
  - filters.NearDuplicates: {}
  # No score came with the answers. These need no model; a judge (labelers.Rubric, labelers.Judge)
  # or a reward model (labelers.RewardModel) knows more.
  - labelers.R3: {}
  - labelers.Pairs: {objective: r3, strategy: best_worst, label_source: rule}
"""
PROMPTS = """\
  - filters.NearDuplicates: {}
  # Answers, and pairs by a judge. Put your servers in (anything that speaks OpenAI's chat
  # completions), and take the signs away:
  # - generators.Responses:
  #     models: [{engine: server, base_url: "http://localhost:8000/v1", model: MODEL}]
  #     n: 4
  # - labelers.Judge:
  #     judges: [{engine: server, base_url: "http://localhost:8000/v1", model: JUDGE}]
"""


@dataclass(frozen=True)
class Starter:
    """A recipe that was just written.

    Attributes:
        text: of the recipe, YAML.
        seen: what was found in the source, a few lines.
    """

    text: str
    seen: str


def starter(spec: SourceSpec, recipe: Path) -> Starter:
    """Look at a source and write a recipe for it that runs as it is.

    Args:
        spec: the source; a relative path starts at the working folder.
        recipe: the file that the recipe is for; the source's path is written relative to it.

    Raises:
        DataError: if nothing is there, or no layout fits.
    """
    opened = open_source(spec, Path.cwd())
    look = peek(opened).some()
    opened = look.source
    mapping = "".join(f"\n    {ours}: {json.dumps(c)}" for ours, c in spec.mapping.items())
    more = {
        "values": spec.values,
        "carry": spec.carry,
        "ignore": spec.ignore,
        "label_source": spec.label_source,
        "encoding": spec.encoding,
        "separator": spec.separator,
    }
    head = HEAD.format(
        source=spec.path,
        recipe=recipe,
        name=_name(str(opened.identity()["name"])),
        path=json.dumps(_from(spec.path, recipe.resolve().parent)),
        layout=opened.layout,
        mapping=f"\n  mapping:{mapping}" if mapping else "",
        columns="".join(f"\n  {key}: {json.dumps(value)}" for key, value in more.items() if value),
    )
    return Starter(head + _steps(opened), _seen(look))


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "dataset"


def _from(path: str, folder: Path) -> str:
    """A local path as it is written in a recipe of a folder; others as they are."""
    local = Path(path)
    if "://" in path or local.is_absolute() or not local.exists():
        return path
    return os.path.relpath(local.resolve(), folder)


def _steps(opened: OpenSource) -> str:
    if opened.shape == Shape.PAIRS:
        return PAIRS
    if opened.shape == Shape.PROMPTS:
        return PROMPTS
    scores = [c.removeprefix("score_") for c in opened.schema if is_score(c)]
    if not scores:
        return UNRATED
    best = next((s for s in ("overall", "reward", "helpfulness") if s in scores), scores[0])
    return RATED.format(objective=best)


def _seen(look: Peek) -> str:
    lost = "".join(f", {n:,} {reason}" for reason, n in look.rejected.items())
    return (
        f"layout   {look.layout}: {look.shape.value}\n"
        f"files    {len(look.files)}\n"
        f"records  {look.n_records:,}: {look.n_rows:,} rows{lost}\n"
        + "\n".join(account_lines(look.account.to_dict()))
    )
