"""Settings of rewards that differ between people. Plain data: nothing heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from prefactory.engines.encoder import Encoder
from trainers.settings.base import FROZEN


class PAL(BaseModel):
    """Settings of PAL as a reward model (arXiv 2406.08469), with ideal points of people.

    Attributes:
        annotator: column of who gave a label; one id, or a list of several.
        method: `a`, a person's ideal point is one for all prompts; `b`, it moves with the prompt.
        prototypes: of which ideal points are mixtures; more than there are groups only splits one.
        linear: for `a`: learn a linear map of the vectors instead of one scale.
        rank: for `b`: size of the space in which answers and ideal points meet.
        dim: principal components of the vectors that are kept.
        enough: labels from which on a person's own weights are trusted alone; else they are drawn
            to the mean person's.
        base: folder of a trained model; then only the people of the data are placed in it, and its
            prototypes stay.
        new_users: share of the people who are kept from a fit of its own, to measure how well new
            ones are placed; 0 leaves that out. The saved model is fitted on all.
        new_labels: how many labels place them, in turn.
        steps: of Adam, for each start.
        starts: how many; the best is kept.
        encoder: which frozen encoder reads the answers.
        seed: of the starts and of who is kept back.
    """

    model_config = FROZEN

    annotator: str = Field("annotator", min_length=1)
    method: Literal["a", "b"] = "a"
    prototypes: int = Field(2, ge=1)
    linear: bool = False
    rank: int = Field(16, ge=1)
    dim: int = Field(32, ge=1)
    enough: int = Field(5, ge=1)
    base: Path | None = None
    new_users: float = Field(0.2, ge=0, lt=1)
    new_labels: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 5, 10, 20, 50, 100)
    steps: int = Field(400, ge=1)
    starts: int = Field(4, ge=1)
    encoder: Encoder = Field(default_factory=Encoder)
    seed: int = 0

    @model_validator(mode="after")
    def _fits_its_base(self) -> PAL:
        of_base = {
            "method", "prototypes", "linear", "rank", "dim", "steps", "starts", "encoder"
        }  # fmt: skip
        if self.base is not None and (given := sorted(of_base & self.model_fields_set)):
            raise ValueError(f"{given[0]} is the model's that base names: leave it out")
        return self

    @model_validator(mode="after")
    def _fits_its_method(self) -> PAL:
        if self.method == "b" and self.linear:
            raise ValueError("linear is for method a; b always has a linear map")
        if self.method == "a" and "rank" in self.model_fields_set:
            raise ValueError("rank is for method b")
        return self
