"""Checkpoints that are named by their id on the Hugging Face Hub: from the cache, else downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from dti_repro.errors import InputError

PATTERNS = {
    "allow_patterns": ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"],
    "ignore_patterns": ["*.fp16*", "*non_ema*", "safety_checker/*", "feature_extractor/*", "vae_1_0/*", "*onnx*"],
}


def is_hub_id(path: str) -> bool:
    """Whether this is owner/name, and no folder here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path)) and not Path(path).is_dir()


def cached(repository: str, revision: str) -> Path | None:
    """The folder of a snapshot in the cache, perhaps not whole, without asking the Hub; HF_HOME is respected."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, **PATTERNS))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise InputError(f"backbone.path {repository} is no folder here, and no id on the Hugging Face Hub") from error


def download(repository: str, revision: str) -> Path:
    """The snapshot's folder, named by its commit; HF_HUB_OFFLINE and HF_HOME are respected. InputError that
    says what to accept or download."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"backbone.path {repository} is no folder here"
    missing = InputError(
        f"{named}, not whole in the cache, and cannot be downloaded (offline?): run `hf download {repository} "
        f"--revision {revision}` with a connection (HF_HOME says where to), or give the folder of a copy"
    )
    if constants.HF_HUB_OFFLINE:
        raise missing
    try:
        return Path(snapshot_download(repository, revision=revision, **PATTERNS))
    except GatedRepoError as error:
        raise InputError(
            f"{named}, and on the Hugging Face Hub it is gated: accept its licence on its page, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"backbone.revision '{revision}' is none of {repository} on the Hugging Face Hub") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{named}, and the Hugging Face Hub has no such model: correct the id, or `hf auth login` if it is private"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise missing from error
