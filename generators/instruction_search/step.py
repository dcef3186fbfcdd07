"""Instructions improved by tree search: PROMPTS become better prompts, or pairs of rewrites."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from generators.instruction_search.gap import Output
from generators.instruction_search.rows import COMMON, Comparison, decide, generated
from generators.instruction_search.scorer import Scorer
from generators.instruction_search.search import Grown, Search
from generators.instruction_search.tree import Normalise, Tree
from generators.pools import read
from prefactory.asking import Asker, Sampled
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.engines.encoder import Encoder
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import SCORE, SIDES, Shape

_FOLDER = "generators/instruction_search/prompts"
_GREEDY = (
    "sampling.temperature is 0: all answers to an instruction are the same and can't tell luck "
    "from merit; draw warmer, or set level to null"
)
INSTRUCTION_TOKENS = 150
"""What `plan` takes an instruction to have, in tokens."""


class Principle(BaseModel):
    """One way to improve an instruction.

    Attributes:
        name: of the action.
        domain: kind of instruction that it is for.
        content: ends the sentence "Improve the instruction in one way only: ...".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    domain: str
    content: str = Field(min_length=1)


class InstructionSearch(Gated, Prompted, Sampled, Generator):
    """Search each prompt's instruction for rewrites that models answer better.

    P-Aligner (arXiv:2508.04626, as its authors' code does it): a tree of instructions, the raw one
    at the root; a child applies one principle to its parent. An iteration goes down by UCB,
    Q(child) + c sqrt(ln N(node) / N(child)) with Q the recursive mean of means, tries an unused
    principle drawn evenly, lets `responder` answer the new instruction `samples` times and takes
    the mean of the answers' scores. By default the answers are scored against the *raw*
    instruction (`score_against`), so that a rewrite can't change the question. The instruction is
    the last user message; what stands around it stays.

    `output` says what becomes of a tree; all of them ask the search's calls alike, so a second
    recipe with another output costs only its fresh samples (label, seed and other fields alike):

    - `instructions`: PROMPTS, the best rewrite in place of the raw instruction, if it beats it;
      `reward` and `raw_reward` are their mean scores.
    - `pairs`: PAIRS for training a rewriter: prompt "rewrite this", chosen the best node, rejected
      the worst. The raw instruction may be either.
    - `siblings`: PAIRS, best against worst child of each node, prompt "rewrite" their parent.
    - `steps`: PAIRS, each child that beats its parent against it, prompt names the principle (the
      chosen side is the paper's step data).
    - `trees`: PROMPTS as they were, every finished tree beside them, nothing compared.

    Before a pair is written (ours; the published code writes all), the first `ends` at either end
    are scored again on fresh samples, which alone say who wins, and whether: where all are equally
    good, a tree writes something with a probability of `level`. The p-value of a gap (`p_value`) is
    that of max of fresh means at one end less min at the other, in standard deviations of one score
    (pooled within nodes whose answers differ; scores are taken to be normal); over several
    comparisons of a tree (`siblings`, `steps`) false discoveries are bounded (Benjamini and
    Hochberg). What was chosen is scored a third time, and `margin` and scores are of these samples,
    which chose nothing; they can be below 0. docs/mcts.md has the error rates.

    Also ours: running min-max of the tree's rewards (`normalise`), likeness floor and length cap
    on rewrites (refused ones are asked again), no rewrite twice in a tree, and a failed iteration
    bars its principle at its node. The tree is in the column `tree`, with the state of its random
    stream; `prefactory tree` shows it. Columns: `generators.instruction_search.rows.COMMON`.

    Reasons: `no_instruction`, `no_principle`; when a tree was given up, that of the last failed
    iteration (the engine's, `unparseable`, the gate's, `unchanged`, `duplicate`, `too_long`,
    `drifted`, `empty_answer`, `no_score`); `equal_samples` (temperature 0, or a responder that
    ignores seeds: nothing can be told), `no_gap`, `gap_not_confirmed` (of the first comparison
    that failed), `no_fresh_scores`, `no_contest`.

    Attributes:
        rewriter: applies a principle to an instruction.
        rewriter_prompt: `trained` asks a rewriter that was trained on `steps` (SinglePO) word for
            word as its training did, and draws again what can't be used instead of correcting it.
        responder: answers instructions.
        scorer: scores answers.
        output: see above.
        principles: what can be tried; a list, or the name of a YAML file with one.
        category: String column with the domain of an instruction; without one, or for unknown
            domains, only the principles of `shared` are tried.
        shared: domains whose principles are tried on every instruction.
        iterations: new nodes of a tree.
        exploration: c. The paper's 0.1 is for ArmoRM, whose scores spread over about 0.1.
        normalise: `min_max` puts the tree's rewards on [0, 1] in the search; `none` is the paper's.
        samples: answers to each instruction, K.
        score_against: what the answers are scored as answers to.
        ends: candidates at either end that are scored again; 0 trusts the search, which no level
            can be stated for.
        fresh_samples: answers to each of them, and again to each side of a pair; None: as
            `samples`.
        level: probability that a tree of equals writes something, in (0, 1); null: any gap will do.
        unimproved: whether prompts that nothing beats leave `instructions`, or stay as they were.
        floor: least cosine between a rewrite and the raw instruction; None: any.
        encoder: measures it.
        longest: characters of a rewrite: so many times those of the raw instruction, and so many.
        tries: how often a rewrite is asked for until it can be used.
        most_failed: failed iterations after which a tree is given up.
        keep_responses: keep the answers in the tree.
        name: of the score columns of pairs.
        rewriter_sampling: how rewrites are drawn.
        sampling: how answers are drawn.
        max_concurrency: trees that grow at a time; changes no result.

    Example:
        - generators.InstructionSearch:
            rewriter: {engine: server, base_url: 'http://localhost:8000/v1', model: large}
            responder: {engine: server, base_url: 'http://localhost:8000/v1', model: policy}
            scorer: {judge: {engine: server, base_url: 'http://localhost:8000/v1', model: large}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "row"
    version: ClassVar[int] = 2
    parents: ClassVar[tuple[str, ...]] = ("parent_id",)
    templates: ClassVar[dict[str, Text]] = {
        "rewrite_system": Text(f"{_FOLDER}/rewrite_system.j2"),
        "rewrite": Text(f"{_FOLDER}/rewrite.j2", ("instruction", "principle", "context", "mark")),
        "judge_system": Text(f"{_FOLDER}/judge_system.j2"),
        "judge": Text(
            f"{_FOLDER}/judge.j2", ("conversation", "response", "rubric", "low", "high", "mark")
        ),
        "task": Text(f"{_FOLDER}/task.j2", ("instruction", "context")),
        "step_task": Text(f"{_FOLDER}/step_task.j2", ("instruction", "context", "principle")),
        "answer": Text(f"{_FOLDER}/answer.j2", ("instruction",)),
    }

    rewriter: AnyEngine
    rewriter_prompt: Literal["instructed", "trained"] = "instructed"
    responder: AnyEngine
    scorer: Scorer
    output: Output = "pairs"
    principles: tuple[Principle, ...] = Field(
        default_factory=lambda: tuple(Principle(**p) for p in read("principles")), min_length=1
    )
    category: str | None = Field(default=None, min_length=1)
    shared: tuple[str, ...] = ("helpfulness",)
    iterations: int = Field(default=20, ge=1)
    exploration: float = Field(default=0.1, ge=0)
    normalise: Normalise = "min_max"
    samples: int = Field(default=3, ge=1)
    score_against: Literal["original", "rewritten"] = "original"
    ends: int = Field(default=2, ge=0)
    fresh_samples: int | None = Field(default=None, ge=1)
    level: float | None = Field(default=0.05, gt=0, lt=1)
    unimproved: Literal["drop", "keep"] = "drop"
    floor: float | None = Field(default=0.5, ge=-1, le=1)
    encoder: Encoder = Encoder()
    longest: tuple[float, int] = (3.0, 500)
    tries: int = Field(default=4, ge=1)
    most_failed: int = Field(default=20, ge=0)
    keep_responses: bool = False
    name: str = Field(default="reward", pattern=r"^[a-z0-9_]+$")
    rewriter_sampling: SamplingParams = SamplingParams(max_tokens=4096)
    max_concurrency: int = Field(default=256, ge=1)

    @field_validator("principles", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return read(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [p.name for p in self.principles]
        again = sorted({n for n in names if names.count(n) > 1} | ({"root"} & set(names)))
        if again:
            raise ValueError(f"principles: {', '.join(again)} is there twice, or is taken")
        domains = {_folded(p.domain) for p in self.principles}
        unknown = [d for d in self.shared if _folded(d) not in domains]
        if unknown:
            have = ", ".join(sorted(domains))
            raise ValueError(f"shared: no principle is of {', '.join(unknown)} (there are: {have})")
        if not self.shared and self.category is None:
            raise ValueError("shared: without a category no principle is left; name a domain")
        if self.level is not None and self.output != "trees":
            if self.samples == 1:
                raise ValueError(
                    "samples: one can't tell luck from merit; draw more, or set level to null"
                )
            if not self.ends:
                raise ValueError(
                    "ends: without fresh samples no level holds; set level to null to trust the "
                    "search"
                )
        if self.longest[0] < 0 or self.longest[1] < 0:
            raise ValueError("longest: numbers of characters are not below 0")
        return self

    def _tries(self) -> int:
        """How often a rewrite is asked for: a trained rewriter at temperature 0 says it again."""
        again = self.rewriter_prompt == "instructed" or self.rewriter_sampling.temperature > 0
        return self.tries if again else 1

    @property
    def new_prompts(self) -> bool:  # type: ignore[override]
        """All outputs but `trees` have other prompts."""
        return self.output != "trees"

    def label_source(self) -> str:
        """Who labelled the pairs."""
        return "judge" if self.scorer.judge is not None else "reward_model"

    def identity(self) -> dict[str, Any]:
        """As every step's; the labeler that scores stands in it with its own identity."""
        identity = super().identity()
        if self.scorer.labeler is not None:
            identity["fields"]["scorer"]["step"] = self.scorer.labeler.identity()
        return identity

    def configs(self) -> list[tuple[Any, str]]:
        """Models of the fields, without an encoder that nothing needs, and of the labeler."""
        models: dict[str, AnyEngine | Encoder | None] = {
            "rewriter": self.rewriter,
            "responder": self.responder,
            "judge": self.scorer.judge,
            "encoder": self.encoder if self.floor is not None else None,
        }
        own = [(model, role) for role, model in models.items() if model is not None]
        return own + ([] if self.scorer.labeler is None else self.scorer.labeler.configs())

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The category, and what the labeler reads."""
        own: dict[str, pl.DataType] = {} if self.category is None else {self.category: pl.String()}
        return own | self.scorer.needs()

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Those of `COMMON`, and rewards: on prompts as plain numbers, on pairs as scores."""
        columns = dict(COMMON)
        if self.out_shape(shape) == Shape.PAIRS:
            columns |= {"p_value": pl.Float64(), "margin": pl.Float64()}
            columns |= {f"{side}_{SCORE}{self.name}": pl.Float64() for side in SIDES}
        elif self.output == "instructions":
            columns |= dict.fromkeys(("p_value", "reward", "raw_reward"), pl.Float64())
        return columns

    def out_shape(self, shape: Shape) -> Shape:
        """PROMPTS for instructions and trees, else PAIRS."""
        return Shape.PROMPTS if self.output in ("instructions", "trees") else Shape.PAIRS

    def _again(self) -> int:
        """How often a node of a tree is measured again, at most: to choose, and for its margin."""
        if self.output == "trees" or not self.ends:
            return 0
        nodes = self.iterations + 1
        most = {"pairs": 2 * self.ends, "instructions": self.ends + 1}
        pairs = 2 if self.output in most else nodes
        return min(most.get(self.output, nodes), nodes) + min(pairs, nodes)

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A rewrite an iteration, K answers and scores a node, and the fresh ones at the ends."""
        fresh = self._again() * (self.fresh_samples or self.samples)
        answers = prompts * ((self.iterations + 1) * self.samples + fresh)
        texts = self.texts()
        asked = len(texts["rewrite_system"] + texts["rewrite"]) // 4 + INSTRUCTION_TOKENS
        return [
            Asks(
                self.rewriter, prompts * self.iterations, asked, self.rewriter_sampling.max_tokens
            ),
            Asks(self.responder, answers, INSTRUCTION_TOKENS, self.sampling.max_tokens),
            *self.scorer.asks(answers, prompts),
        ]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A row a prompt; of steps one an iteration, of siblings one for every two."""
        most = {"steps": self.iterations, "siblings": self.iterations // 2}
        grown = prompts * most.get(self.output, 1)
        return grown, grown

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Grow a tree for every prompt of a table, and compare what grew.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            The rows of `output` in canonical order, and the prompts without any.

        Raises:
            ConfigError: a replaced prompt text fails on these values, or there is no encoder.
        """
        search = self._search(table, ctx)
        trees, unplanted = self._planted(table, ctx)
        settings, decided = self._comparison(), []
        for start in range(0, len(trees), self.max_concurrency):
            batch = trees[start : start + self.max_concurrency]
            search.grow(batch)
            decided += decide(settings, batch, search.freshen)
        return generated(settings, table, trees, decided, unplanted)

    def _search(self, table: pl.DataFrame, ctx: Context) -> Search:
        return Search(
            rewriter=Asker(
                ctx, self.rewriter, self.rewriter_sampling, self._tries(), gate=self.gate
            ),
            responder=Asker(ctx, self.responder, self.sampling, gate=self.gate),
            score=lambda rows: self.scorer.scores(rows, table, self.render, ctx),
            render=self.render,
            iterations=self.iterations,
            samples=self.samples,
            most_failed=self.most_failed,
            keep_responses=self.keep_responses,
            floor=self.floor,
            encoder=self.encoder,
            longest=self.longest,
            score_against=self.score_against,
            trained=self.rewriter_prompt == "trained",
        )

    def _comparison(self) -> Comparison:
        return Comparison(
            output=self.output,
            shape=self.out_shape(Shape.PROMPTS),
            adds=self.adds(Shape.PROMPTS),
            ends=self.ends,
            level=self.level,
            samples=self.samples,
            fresh_samples=self.fresh_samples or self.samples,
            keep_unimproved=self.unimproved == "keep",
            name=self.name,
            rewriter=self.rewriter.model,
            label_source=self.label_source(),
            render=self.render,
        )

    def _greedy(self) -> bool:
        """Whether answers are drawn at temperature 0, and luck must be told from merit."""
        testing = self.level is not None and self.output != "trees"
        return testing and self.sampling.temperature == 0

    def _planted(
        self, table: pl.DataFrame, ctx: Context
    ) -> tuple[list[Grown], dict[int, tuple[str, str]]]:
        """A tree per prompt that has an instruction and something to try on it."""
        blank: list[str | None] = [None] * table.height
        domains = blank if self.category is None else table[self.category].to_list()
        trees, unplanted = [], {}
        prompts, ids = table["prompt"].to_list(), table["prompt_id"].to_list()
        for row, (conversation, key, domain) in enumerate(zip(prompts, ids, domains, strict=True)):
            place = _instruction(conversation)
            wanted = {_folded(d) for d in (*self.shared, domain or "")}
            own = [p for p in self.principles if _folded(p.domain) in wanted]
            contents = {p.name: p.content for p in own}
            if self._greedy():
                unplanted[row] = ("equal_samples", _GREEDY)
            elif place is None:
                unplanted[row] = ("no_instruction", "there is no user message with text in it")
            elif not contents:
                unplanted[row] = ("no_principle", f"no principle is of the domain {domain!r}")
            else:
                text = conversation[place]["content"]
                rng = ctx.rng(f"tree {key}")
                tree = Tree(text, list(contents), rng, self.exploration, self.normalise)
                trees.append(Grown(row, f"{key}/{ctx.step}", conversation, place, contents, tree))
        return trees, unplanted


def _folded(domain: str) -> str:
    return domain.strip().lower()


def _instruction(conversation: list[dict[str, Any]]) -> int | None:
    """Place of the last user message, if there is text in it."""
    for place in range(len(conversation) - 1, -1, -1):
        if conversation[place]["role"] == "user":
            return place if (conversation[place]["content"] or "").strip() else None
    return None
