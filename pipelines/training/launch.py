"""Configurations of `accelerate launch` for a training on several GPUs."""

from __future__ import annotations

from pathlib import Path

from prefactory.errors import ConfigError
from prefactory.extras import package

PRESETS = {
    "ddp": "multi_gpu", "fsdp": "fsdp2", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3",
}  # fmt: skip
"""Our name -> TRL's file."""
_NEEDS = {"zero": "ZeRO needs the package deepspeed: pip install deepspeed\n"}


def launch_text(kind: str) -> str:
    """A configuration of accelerate, made by TRL, and the command that uses it.

    Args:
        kind: a name of `PRESETS`.

    Raises:
        ConfigError: there is no such preset.
    """
    if kind not in PRESETS:
        raise ConfigError(f"--launch {kind!r}: choose {', '.join(PRESETS)}")
    folder = Path(str(package("trl").__file__)).parent / "accelerate_configs"
    text = (folder / f"{PRESETS[kind]}.yaml").read_text("utf-8")
    needs = next((f"# {line}" for start, line in _NEEDS.items() if kind.startswith(start)), "")
    return (
        f"# Save as {kind}.yaml, set num_processes to the number of GPUs, and begin by\n"
        f"#   accelerate launch --config_file {kind}.yaml --module pipelines.cli \\\n"
        "#     train dpo NAME --model PATH_OR_HUB_ID --config train.yaml\n"
        "# A step then takes per_device_train_batch_size rows of every process.\n"
        f"{needs}{text}"
    )
