"""Uploading a finished export to a repository on the Hub; only ever when asked for."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from lynx_moe.errors import ConfigError, ExportError


def check_name(repository: str) -> None:
    """Raises ConfigError for what the Hub would not take as owner/name: said before anything is computed."""
    try:
        validate_repo_id(repository)
    except HFValidationError as problem:
        raise ConfigError(
            f"{repository!r} is no repository name", why=str(problem), fix="give it as owner/name"
        ) from problem


def push(folder: str | Path, repository: str, *, public: bool = False, endpoint: str | None = None) -> str:
    """Upload the finished export in `folder` in one commit.

    A repository that is not there is made, private unless `public`; the visibility of one that is there stays. The
    token is what huggingface_hub finds: HF_TOKEN, or that of `hf auth login`.

    Args:
        endpoint: of the Hub; None for HF_ENDPOINT or the public one.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: the name is none.
        ExportError: the Hub refused or could not be reached; the folder stays as it is.
    """
    check_name(repository)
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Exported by lynx_moe", ignore_patterns=[".*"]
        )
    except (HTTPError, OSError, ValueError, RuntimeError) as problem:
        raise ExportError(
            f"{folder} was not pushed to {repository}",
            why=str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__,
            fix="the folder is whole: check name, token (HF_TOKEN) and network, then push it again with "
            f"`hf upload {repository} {folder}`",
        ) from problem
    return str(done.commit_url)
