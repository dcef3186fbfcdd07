"""One adapter that is exactly a weighted sum of several (HyperAlign, arXiv 2601.15968).

HyperAlign's hypernetwork emits adapters; what is portable is one adapter an objective and a user's
weights v over them: `W = W_0 + sum_k v_k s_k B_k A_k`. That sum is one adapter again, whose factors
lie side by side, `B = [v_1 s_1 B_1, ...]`, `A = [A_1; ...]`. Means of A and of B by themselves are
not it: they hold all cross terms, and (BQ, Q^-1 A) is the same adapter for every Q.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefactory.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NOT = {
    "use_dora": "DoRA", "modules_to_save": "modules that were trained whole (modules_to_save)",
    "target_parameters": "target_parameters", "alpha_pattern": "a scale for each module",
    "layer_replication": "replicated layers", "lora_bias": "biases",
}  # fmt: skip
"""Options of peft with which an adapter is more than its factors."""
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Adapter:
    """A LoRA.

    Attributes:
        folder: where it is.
        config: peft's configuration.
        factors: module -> A, Float32[r, in], and B, Float32[out, r], with the scale in B.
    """

    folder: Path
    config: Mapping[str, Any]
    factors: Mapping[str, Factors]

    @property
    def base(self) -> str:
        """Folder or hub id of the model that it was trained on."""
        return str(self.config["base_model_name_or_path"])

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read an adapter's folder.

        Raises:
            ConfigError: it holds none, or one that is more than a sum of factors.
        """
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder} holds no adapter: {error}") from error
        found = [name for option, name in _NOT.items() if config.get(option)]
        found += [] if config.get("bias", "none") == "none" else ["biases"]
        found += [] if config.get("peft_type") == "LORA" else [f"{config.get('peft_type')}"]
        started = config.get("init_lora_weights", True)
        found += [] if started in (True, False, "gaussian") else [f"a changed base ({started})"]
        names = {key.rpartition(".lora_")[0] for key in tensors}
        pairs = {m: [f"{m}.lora_{ab}.weight" for ab in "AB"] for m in names}
        if {key for keys in pairs.values() for key in keys} != set(tensors):
            found.append("tensors beside its factors")
        if found:
            raise ConfigError(
                f"{folder.name} is an adapter with {found[0]}, which has no exact weighted sum; "
                "--plain merges it into its base first"
            )
        alpha, root = float(config["lora_alpha"]), bool(config.get("use_rslora"))
        factors = {}
        for module, keys in sorted(pairs.items()):
            a, b = (tensors[key].float() for key in keys)
            rank = len(a)
            factors[module] = (a, b * (alpha / (math.sqrt(rank) if root else rank)))
        return cls(folder, config, factors)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def check_alike(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that can't be added.

    Raises:
        ConfigError: they have different bases, tasks or layouts of weights.
    """
    first = adapters[0]
    for other in adapters[1:]:
        if _place(first.base) != _place(other.base):
            raise ConfigError(
                f"{first.folder.name} was trained on {first.base}, {other.folder.name} on "
                f"{other.base}: adapters of different bases can't be added"
            )
        for option in ("revision", "task_type", "fan_in_fan_out"):
            if first.config.get(option) != other.config.get(option):
                raise ConfigError(
                    f"{first.folder.name} and {other.folder.name} differ in {option}: "
                    f"{first.config.get(option)} and {other.config.get(option)}"
                )


def _place(base: str) -> str:
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def summed(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Factors]:
    """The factors of the weighted sum, exactly; a module that an adapter lacks has zero there.

    Args:
        adapters: of one base.
        weights: one each, any finite numbers; those of weight 0 add nothing.

    Returns:
        Module -> A, Float32[R, in], and B, Float32[out, R], of scale 1.
    """
    used = [(a, w) for a, w in zip(adapters, weights, strict=True) if w]
    modules = sorted({m for a, _ in used for m in a.factors})
    return {
        m: (
            torch.cat([a.factors[m][0] for a, _ in used if m in a.factors]),
            torch.cat([w * a.factors[m][1] for a, w in used if m in a.factors], dim=1),
        )
        for m in modules
    }


def truncated(factors: Mapping[str, Factors], rank: int) -> tuple[dict[str, Factors], float]:
    """The nearest factors of a lower rank, by SVD of the small core of both QR factors.

    Args:
        factors: module -> A and B.
        rank: of each module, at most.

    Returns:
        The factors, and the share of the update's size (Frobenius, over all modules) that is lost:
        0 where nothing is.
    """
    found, lost, total = {}, 0.0, 0.0
    for module, (a, b) in factors.items():
        left, r_b = torch.linalg.qr(b.double())
        right, r_a = torch.linalg.qr(a.double().T)
        u, s, v = torch.linalg.svd(r_b @ r_a.T)
        kept = min(rank, len(s))
        lost += float((s[kept:] ** 2).sum())
        total += float((s**2).sum())
        b_new = left @ u[:, :kept] * s[:kept]
        found[module] = ((v[:kept] @ right.T).float(), b_new.float())
    return found, math.sqrt(lost / total) if total else 0.0


def write_adapter(folder: Path, like: Adapter, factors: Mapping[str, Factors]) -> None:
    """Write factors of scale 1 as an adapter that peft loads, with the tokenizer of another.

    Args:
        folder: there already.
        like: adapter whose base, task and tokenizer it has.
        factors: module -> A and B; modules of a lower rank are filled up with zeros.
    """
    rank = max(len(a) for a, _ in factors.values())
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        more = rank - len(a)
        a, b = (
            torch.nn.functional.pad(x, pad) for x, pad in ((a, (0, 0, 0, more)), (b, (0, more)))
        )
        tensors |= {f"{module}.lora_A.weight": a.contiguous(), f"{module}.lora_B.weight": b}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    own = {
        "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {},
        "target_modules": sorted(m.removeprefix(_PREFIX) for m in factors),
        "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None,
        "lora_dropout": 0.0,
    }  # fmt: skip
    text = json.dumps({**like.config, **own}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    copy_tokenizer(like.folder, folder)


def copy_tokenizer(old: Path, new: Path) -> None:
    """Copy what a tokenizer and its chat template are from one folder to another."""
    for name in ("tokenizer*", "special_tokens_map.json", "*.jinja", "vocab.*", "merges.txt"):
        for file in sorted(old.glob(name)):
            if file.is_file():
                shutil.copyfile(file, new / file.name)
