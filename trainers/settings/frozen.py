"""Settings of the trainers that fit a head on frozen encoders. Plain data: nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from prefactory.engines.encoder import Encoder
from prefactory.preferences.stack import Form
from prefactory.spaces.hashed import Categories
from trainers.settings.base import FROZEN


class EmbeddingReward(BaseModel):
    """Settings of the embedding reward model.

    Attributes:
        encoder: which frozen encoder reads the texts.
        l2: grid of penalties, tried by cross-validation; one value is taken as it is.
        folds: folds of the cross-validation; the pairs of a prompt are always in one fold.
        length_feature: add the answer's log length, under a penalty of its own (at most
            40 / pairs). Off, because length is a shortcut.
        margin_weight: weigh pairs by their margin; needs a margin on every pair.
        categories: columns of names as features too (`answer: [model]`, `prompt: [source]`),
            hashed into one table. Off: which model wrote an answer is a shortcut, and who scores
            answers has to know it.
        seed: decides the folds.
    """

    model_config = FROZEN

    encoder: Encoder = Field(default_factory=Encoder)
    l2: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), min_length=1
    )
    folds: int = Field(5, ge=2)
    length_feature: bool = False
    margin_weight: bool = False
    categories: Categories | None = None
    seed: int = 0


class PreferenceStack(BaseModel):
    """Settings of the preference stack: text statistics, vectors and outside scores.

    Attributes:
        form: `statistics`, `joint`, `stack`, or `auto`: the simplest of them, in this order, whose
            log loss on held-out rows is within one standard error of the least.
        encoder: which frozen encoder reads the texts.
        vectors: False leaves out all that needs an encoder.
        outside: objectives whose scores, on both sides of every pair, are features as well. Who
            uses the model needs them too.
        oriented: columns about a pair as a whole (votes of judges). A model with one can't score
            single answers, so that none is saved: an error.
        seed: decides the folds.
    """

    model_config = FROZEN

    form: Form = "auto"
    encoder: Encoder = Field(default_factory=Encoder)
    vectors: bool = True
    outside: tuple[str, ...] = ()
    oriented: tuple[str, ...] = ()
    seed: int = 0


class Router(BaseModel):
    """Settings of a router of models or judges.

    Attributes:
        candidates: `models`: which model answers a prompt best, by pairs that name both; `judges`:
            which judge decides right, by votes on pairs whose label no judge gave.
        judge: name of the judges' columns (`judge_votes`).
        judges: names of the judges, in the order of the engines; None: their numbers.
        prompt: columns of the prompt that are read together with the candidate's name.
        vectors: read the vector of the last user message as well.
        encoder: which frozen encoder makes it.
        slots: of the table of hashed names.
        probes: slots that a name lights.
        costs: candidate -> cost of an answer, in whatever unit.
        budget: mean cost of a prompt that the router keeps to, on the training prompts; None: the
            best is taken, whatever it costs.
        l2: grid of penalties, tried by cross-validation; one value is taken as it is.
        folds: folds of the cross-validation, by prompt.
        seed: decides the folds.
    """

    model_config = FROZEN

    candidates: Literal["models", "judges"] = "models"
    judge: str = "judge"
    judges: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ()
    vectors: bool = True
    encoder: Encoder = Field(default_factory=Encoder)
    slots: int = Field(256, ge=2)
    probes: int = Field(2, ge=1, le=8)
    costs: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    budget: float | None = Field(None, ge=0)
    l2: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.01, 0.1, 1.0, 10.0), min_length=1)
    folds: int = Field(5, ge=2)
    seed: int = 0
