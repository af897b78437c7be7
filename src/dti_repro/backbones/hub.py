"""Snapshots of checkpoints from the Hugging Face Hub: only the files that are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dti_repro.errors import InputError

CONFIGS = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model"]
UNREAD = ["*non_ema*", "safety_checker/*", "feature_extractor/*", "vae_1_0/*", "*onnx*"]
NO_WEIGHTS = {"allow_patterns": CONFIGS, "ignore_patterns": UNREAD}  # as of `patterns`


def is_id(text: str) -> bool:
    """Return whether this may be the id of a repository."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def patterns(variant: str | None = None, plain: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return which files of a repository are downloaded: the configurations, and the weights of a variant or the plain
    ones. plain: parts of the model that have no such variant, and of which the plain weights are taken."""
    if variant is None:
        return {"allow_patterns": [*CONFIGS, "*/*.safetensors"], "ignore_patterns": ["*.fp16*", *UNREAD]}
    named = [f"*/*.{variant}{end}" for end in (".safetensors", "-*.safetensors")]
    named += [f"{part}/*.safetensors" for part in plain]
    return {"allow_patterns": [*CONFIGS, *named], "ignore_patterns": UNREAD}


def cached(repository: str, revision: str, files: Mapping[str, list[str]]) -> Path | None:
    """Return the folder of a snapshot in the cache, which may lack files; None if there is none. InputError if this can
    be no id. files: as `patterns` returns them."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, **files))
    except errors.HFValidationError as error:
        raise InputError(f"backbone.path {repository} is no folder here, and no id on the Hugging Face Hub") from error
    except (errors.LocalEntryNotFoundError, OSError):
        return None


def download(repository: str, revision: str, files: Mapping[str, list[str]]) -> Path:
    """Download a snapshot from the Hub; HF_HUB_OFFLINE and HF_HOME are respected. Return its folder, which has the name
    of its commit. files: as `patterns` returns them. InputError that says what to accept or download."""
    from huggingface_hub import constants, errors, snapshot_download

    missing = f"backbone.path {repository} is no folder here"
    offline = InputError(
        f"{missing}, not whole in the cache, and cannot be downloaded (offline?): run `hf download {repository} "
        f"--revision {revision}` with a connection (HF_HOME says where to), or give the folder of a copy"
    )
    if constants.HF_HUB_OFFLINE:
        raise offline
    try:
        return Path(snapshot_download(repository, revision=revision, **files))
    except errors.GatedRepoError as error:
        reason = f"{missing}, and on the Hugging Face Hub it is gated: accept its licence there, then `hf auth login`"
        raise InputError(reason) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"backbone.revision '{revision}' is none of {repository} on the Hugging Face Hub") from error
    except errors.RepositoryNotFoundError as error:
        reason = f"{missing}, nor a model on the Hugging Face Hub: correct the id, or `hf auth login` if it is private"
        raise InputError(reason) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise offline from error
