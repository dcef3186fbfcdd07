"""Claims on their way: aligned with passages by a judge or a rule, and written again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from generators.evidence.claims import Alignment, Verdict, align
from generators.evidence.corpus import Corpus, Found, Retrievers
from prefactory.asking import Asker, Task, fence, open_tasks, unrated
from prefactory.asking.forms import Form
from prefactory.context import Context
from prefactory.near.vectors import Floats

VERDICTS: tuple[Verdict, ...] = ("supported", "contradicted", "absent")
ABSENT = Alignment("absent")
_FORM = Form({"verdict": VERDICTS, "span": "maybe"})


@dataclass
class Claim:
    """One claim of an answer.

    Attributes:
        number, start, end, text: which it is and where it stands.
        ids, passages, cosines: what was found for it.
        first, now: what these say of it, as it was and as it is.
        refined: what stands in its place; None: itself.
        round: of the refinement; 0: none.
    """

    number: int
    start: int
    end: int
    text: str
    ids: list[str] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)
    first: Alignment = ABSENT
    now: Alignment = ABSENT
    refined: str | None = None
    round: int = 0

    def show(self, corpus: Corpus, found: Found) -> None:
        """Take what was found in a corpus."""
        self.ids = corpus.ids.gather(found.places).to_list()
        self.passages = corpus.texts.gather(found.places).to_list()


@dataclass(kw_only=True)
class Held(Task):
    """A text that is held against the passages of a claim.

    Attributes:
        owner: fails with it.
        request: what the answer answers.
        claim: whose passages.
        text: the claim, or what shall stand in its place.
        shown: the passages as a judge or a writer sees them.
        verdict, span: what a judge says.
        alignment: what comes of it.
    """

    owner: Task
    request: str
    claim: Claim
    text: str
    shown: list[str] = field(default_factory=list)
    verdict: Verdict = "absent"
    span: str = ""
    alignment: Alignment = ABSENT


Render = Callable[..., str]


def by_rule(held: Sequence[Held], corpus: Corpus, retrievers: Retrievers, ctx: Context) -> None:
    """Align texts with the passages of their claims, see `claims.align`."""
    live = open_tasks(held)
    cosines = _cosines(live, retrievers, ctx)
    for one, near in zip(live, cosines, strict=True):
        one.alignment = align(one.text, one.claim.passages, near, corpus.words)


def by_judge(
    held: Sequence[Held], judge: Asker, render: Render, retrievers: Retrievers, ctx: Context
) -> None:
    """Let a judge align texts, the passages in both orders.

    A text is supported or contradicted if both orders say so, both times by words that stand in a
    passage (case and white space aside); else it is absent. A text without passages is absent and
    nobody is asked.
    """
    live = [h for h in open_tasks(held) if h.claim.passages]
    asked = []
    for turned in (False, True):
        tasks = [_shown(h, h.claim.passages[:: -1 if turned else 1], turned) for h in live]
        judge.forms(tasks, "align", _FORM, lambda t: _question(t, render), _take, says=unrated)
        asked.append(tasks)
    near = _cosines(live, retrievers, ctx)
    for one, there, back, cosines in zip(live, *asked, near, strict=True):
        failed = there if there.reason is not None else back
        if failed.reason is not None:
            one.fail(failed.reason, failed.detail or "")
        else:
            one.alignment = _agreed(one, there, back, cosines)


def _cosines(held: Sequence[Held], retrievers: Retrievers, ctx: Context) -> list[Floats]:
    if not held:
        return []
    return retrievers.cosines([h.text for h in held], [h.claim.passages for h in held], ctx)


def _shown(held: Held, passages: Sequence[str], turned: bool) -> Held:
    key = f"{held.key}/{'turned' if turned else 'straight'}"
    return replace(held, key=key, shown=list(passages))


def _question(held: Held, render: Render) -> str:
    mark = fence(held.request, held.text, *held.shown)
    return render(prompt=held.request, claim=held.text, passages=held.shown, mark=mark)


def _take(held: Held, answer: dict[str, Any]) -> None:
    held.verdict, held.span = answer["verdict"], answer["span"]


def _agreed(held: Held, there: Held, back: Held, cosines: Floats) -> Alignment:
    """The verdict of both orders; by its words the passage that decides."""
    nearest = max((float(c) for c in cosines), default=float("nan"))
    places = [_place(span, held.claim.passages) for span in (there.span, back.span)]
    decided = there.verdict == back.verdict != "absent" and None not in places
    if not decided or places[0] is None:
        return Alignment("absent", similarity=nearest)
    return Alignment(there.verdict, places[0], there.span, float(cosines[places[0]]))


def _place(span: str, passages: Sequence[str]) -> int | None:
    """The first passage that holds a span."""
    wanted = " ".join(span.casefold().split())
    if not wanted:
        return None
    folded = (" ".join(p.casefold().split()) for p in passages)
    return next((i for i, passage in enumerate(folded) if wanted in passage), None)


def hand_up(held: Sequence[Held]) -> list[Held]:
    """Fail the owners of what failed; what is open stays, where its owner is."""
    for one in held:
        if one.reason is not None and one.owner.reason is None:
            one.owner.fail(one.reason, one.detail or "")
    return [one for one in open_tasks(held) if one.owner.reason is None]
