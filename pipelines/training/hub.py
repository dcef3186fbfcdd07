"""Models to the Hugging Face hub, in one commit."""

from __future__ import annotations

import logging
import re

from catalog.history.hub import upload
from pipelines.training.known import Known
from prefactory.errors import CatalogError, ConfigError

_LOG = logging.getLogger(__name__)
_REPO = re.compile(r"(?:hf://)?(?:models/)?([\w.-]{1,96}/[\w.-]{1,96})")
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Files that may hold pickles; none is in a model that was trained here."""
_KEPT_HERE = ("checkpoints/*",)


def push(model: Known, to: str, public: bool = False) -> str:
    """Upload a model's folder (but not its checkpoints) to the hub; return the commit's address.

    See `catalog.history.hub.upload`.

    Args:
        model: which.
        to: `hf://USER/NAME`.
        public: whether everybody may read a repository that is made now.

    Raises:
        ConfigError: this names no repository of models.
        CatalogError: a file may hold a pickle, or the hub can't be reached or refuses.
    """
    match = _REPO.fullmatch(to)
    if match is None:
        raise ConfigError(f"{to!r}: a model goes to the hub, as hf://USER/NAME")
    found = sorted(p for p in model.folder.rglob("*") if p.suffix in _UNSAFE)
    if found:
        raise CatalogError(
            f"{found[0]} may hold a pickle, which can run code where it is loaded; remove it, or "
            "save it as safetensors"
        )
    repo = match.group(1)
    _LOG.info("pushing %s to %s", model.folder, repo)
    message = f"{model.method} on {model.dataset}", f"Content digest of the data: {model.digest}"
    return upload(model.folder, repo, "model", message, leave=_KEPT_HERE, public=public)
