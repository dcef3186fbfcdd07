"""Settings of rewards that differ between people. Plain data: nothing heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from prefactory.engines.encoder import Encoder
from trainers.settings.base import FROZEN


class PAL(BaseModel):
    """Settings of PAL as a reward model (arXiv 2406.08469), with one ideal point a person.

    Attributes:
        annotator: column of who gave a label; one id, or a list of several.
        prototypes: of which ideal points are mixtures; more than there are groups only splits one.
        linear: learn a linear map of the vectors instead of one scale.
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
    prototypes: int = Field(2, ge=1)
    linear: bool = False
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
        fit = {"prototypes", "linear", "dim", "steps", "starts", "encoder"} & self.model_fields_set
        if self.base is not None and fit:
            raise ValueError(f"{sorted(fit)[0]} is the model's that base names: leave it out")
        return self
