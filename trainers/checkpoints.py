"""Checkpoints of a training: whole ones only, beside the model's folder, until it is finished.

A killed training goes on from its newest checkpoint when the same command is given again, and ends
with the weights that it would have had. Transformers writes a checkpoint in place; a mark, written
last and after everything is durable, tells a whole one from one that a kill cut short.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prefactory.errors import ConfigError
from prefactory.folders import UNFINISHED, checksums_of, damaged, new_file, sync
from prefactory.sharing.sealed import seal, unseal

_LOG = logging.getLogger(__name__)
WHOLE = ".whole"
RUN = "run.json"
_WEIGHTS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def checkpoints_of(model: Path) -> Path:
    """Folder of the checkpoints of a model that is not finished."""
    return model.with_name(f"{model.name}{UNFINISHED}")


class Marks(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Marks a checkpoint as whole, and saves none after the last step: that one is the model.

    Args:
        keep: save it nevertheless, as all are to be kept.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Don't save a checkpoint that nobody could go on from."""
        if state.global_step >= state.max_steps and not (self.keep or args.load_best_model_at_end):
            control.should_save = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """The same for checkpoints by epoch."""
        self.on_step_end(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Make it durable, then mark it."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in folder.rglob("*"):
            sync(path)
        sync(folder)
        with new_file(folder / WHOLE) as mark:
            mark.write(checksums_of(folder / WHOLE).encode())
        sync(folder.parent)


def opened(folder: Path, identity: str) -> Path | None:
    """Prepare a folder of checkpoints, and return the newest whole one.

    Args:
        folder: made if it is not there.
        identity: of the training: what decides its weights.

    Raises:
        ConfigError: the folder has checkpoints of another training, or does not say of which.
    """
    run = folder / RUN
    if run.is_file() and _identity(run) != identity:
        raise ConfigError(
            f"{folder} has checkpoints of a training with other options, data or weights; remove "
            "it, or name another --out"
        )
    with new_file(run) as file:
        file.write(seal({"identity": identity}))
    found = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*") if p.is_dir()}
    marked = {step: p for step, p in found.items() if (p / WHOLE).is_file()}
    whole = {step: p for step, p in marked.items() if not damaged(p / WHOLE)}
    for path in set(marked.values()) - set(whole.values()):
        _LOG.warning("%s is damaged, and not gone on from", path)
    for step, path in found.items():
        if step not in whole:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None


def _identity(run: Path) -> str:
    try:
        return str(unseal(run.read_bytes(), ["identity"])["identity"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{run} is damaged ({error}): it says which training the checkpoints are of; remove "
            f"{run.parent} to train from the beginning"
        ) from error


def kept(checkpoints: Path, model: Path) -> None:
    """Move the weights of all checkpoints into `checkpoints/` of a model's folder, nothing else."""
    for path in sorted(checkpoints.glob("checkpoint-*")):
        target = model / "checkpoints" / path.name
        target.mkdir(parents=True)
        for pattern in _WEIGHTS:
            for file in path.glob(pattern):
                shutil.move(file, target / file.name)


def logs(checkpoints: Path, model: Path) -> None:
    """Move what a training logged into files (TensorBoard's `runs`) into a model's folder."""
    found = checkpoints / "runs"
    if found.is_dir():
        shutil.move(found, model / found.name)
