"""Where models of this process run, and in which precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from prefactory.extras import package


def _share_or_whole(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("is whole, or below 1 for a share of one GPU")
    return value


Gpus = Annotated[float, Field(ge=0), AfterValidator(_share_or_whole)]
"""GPUs that an order asks a cluster for: whole, or a share of one (workers then share it)."""


def native_precision(device: str | None = None) -> Literal["bf16", "fp32"]:
    """Name the fastest safe precision of a torch device (None: the one an encoder would take)."""
    torch = package("torch")
    name = device or default_device()
    if name.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name != "cpu":
        return "fp32"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, check, bool)() for check in checks)
    return "bf16" if native else "fp32"


def default_device() -> str:
    """Torch device that an encoder without a `device` runs on."""
    return "cuda" if package("torch").cuda.is_available() else "cpu"
