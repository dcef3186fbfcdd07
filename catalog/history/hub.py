"""Folders to the Hugging Face hub, each in one commit: who reads there sees all of it, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prefactory.errors import CatalogError


def upload(
    folder: Path,
    repo: str,
    kind: Literal["model", "dataset"],
    message: tuple[str, str],
    *,
    into: str = "",
    leave: Sequence[str] = (),
    public: bool = False,
) -> str:
    """Upload a folder to the hub in one commit; return the commit's address.

    The repository is made if it is not there. The token is that of `hf auth login`, or HF_TOKEN;
    another hub is named by HF_ENDPOINT.

    Args:
        folder: which.
        repo: `USER/NAME`.
        kind: of the repository.
        message: of the commit: its headline, and the text below.
        into: folder in the repository.
        leave: patterns of files that stay here.
        public: whether everybody may read a repository that is made now.

    Raises:
        CatalogError: the hub can't be reached, or refuses.
    """
    import huggingface_hub  # slow to load

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            path_in_repo=into,
            ignore_patterns=list(leave),
            commit_message=message[0],
            commit_description=message[1],
        )
    except (OSError, ValueError) as error:  # what huggingface_hub raises, and its transport
        line = " ".join(str(error).split())[:300]
        raise CatalogError(
            f"{folder.name} was not pushed to {repo}: {type(error).__name__}: {line} (log in "
            "with `hf auth login`, or set HF_TOKEN)"
        ) from error
    return str(done.commit_url)
