"""The metrics that exist (one yaml each in `conf/metric`) and the weights that they name. Imports no torch.

Weights are a name on a hub, `local-dir:<folder>` (for transformers also the folder alone), or `toybox:<name>` for those
that the toybox ships. A single file, as open_clip takes, is a path or `hub:<owner>/<name>/<file>`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dti_repro.artifacts.files import read_yaml, sha256, sha256_once
from dti_repro.config.plugins import choices, conf_folders
from dti_repro.errors import InputError

LOCAL = "local-dir:"
TOYBOX = "toybox:"
HUB = "hub:"
TOYBOX_WEIGHTS = Path(__file__).parents[1] / "toybox" / "weights"


def metric_config(name: str) -> dict[str, Any]:
    """Return the yaml of a metric: a name of conf/metric, or the path of a yaml of one's own. InputError for an unknown
    name and for a yaml without a checkpoint."""
    named = [folder / "metric" / f"{name}.yaml" for folder in conf_folders()]
    places = [Path(name)] if name.endswith(".yaml") else named
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"metric '{name}' is unknown; there are {', '.join(choices('metric'))}")
    config = read_yaml(path)
    if "_target_" not in config:
        raise InputError(f"metric {path} has no _target_: name the metric's class")
    if not isinstance(encoder_of(config).get("checkpoint"), str):
        raise InputError(f"metric {path} has no checkpoint: name the evaluator's weights, in it or in its encoder")
    return config


def metric_identity(config: dict[str, Any]) -> str:
    """Return what a stored score must have to be this metric's: a digest of its configuration and its weights."""
    named = [encoder_of(config).get(key) for key in ("checkpoint", "pretrained")]
    weights = [weights_fingerprint(named[0])]
    weights += [sha256_once(Path(name)) for name in named if isinstance(name, str) and Path(name).is_file()]
    return hashlib.sha256(json.dumps([config, *weights], sort_keys=True).encode()).hexdigest()[:16]


def encoder_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a metric's yaml that names its weights: its encoder, or all of it. {} if this is no node."""
    encoder = config.get("encoder", config)
    return encoder if isinstance(encoder, dict) else {}


def resolve_weights(checkpoint: str) -> str:
    """Return the name that timm and open_clip understand: `toybox:reader` becomes `local-dir:<folder>/reader`.

    InputError where a named folder does not exist, or has an adapter, which transformers would add.
    """
    if checkpoint.startswith(TOYBOX):
        checkpoint = f"{LOCAL}{TOYBOX_WEIGHTS / checkpoint.removeprefix(TOYBOX)}"
    if checkpoint.startswith(LOCAL) and not Path(checkpoint.removeprefix(LOCAL)).is_dir():
        raise InputError(f"evaluator weights: there is no folder {checkpoint.removeprefix(LOCAL)}")
    if (Path(checkpoint.removeprefix(LOCAL)) / "adapter_config.json").exists():
        raise InputError(f"evaluator weights {checkpoint}: an adapter is not loaded: remove its files")
    return checkpoint


def weights_file(name: str | None) -> str | None:
    """Return the path of `hub:<owner>/<name>/<file>`, which is fetched once, and any other name as it is. InputError
    for another form."""
    if name is None or not name.startswith(HUB):
        return name
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)/([\w./-]+)", name.removeprefix(HUB))
    if found is None:
        raise InputError(f"evaluator weights {name}: hub:<owner>/<name>/<file> is needed")
    from huggingface_hub import hf_hub_download

    return hf_hub_download(*found.groups())


def weights_folder(checkpoint: str) -> Path | None:
    """Return the folder that a name stands for, None for a name on a hub, or of a library."""
    name = resolve_weights(checkpoint)
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL))
    return Path(name) if os.sep in name and Path(name).is_dir() else None


@lru_cache
def weights_fingerprint(checkpoint: str) -> str:
    """Return a digest of the bytes in a local folder, or the name of a checkpoint on a hub."""
    folder = weights_folder(checkpoint)
    if folder is None:
        return checkpoint
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


@contextmanager
def loading_weights(checkpoint: str) -> Iterator[None]:
    """Turn the libraries' several errors for missing weights into one InputError.

    timm, open_clip and transformers raise OSError, RuntimeError, ValueError or huggingface_hub errors (an OSError) for
    weights that are neither cached nor reachable, and ImportError for a tokenizer whose backend is not installed.
    """
    try:
        yield
    except InputError:
        raise
    except UnpicklingError as error:
        raise InputError(
            f"evaluator weights '{checkpoint}': the file holds more than tensors and is not read"
        ) from error
    except (OSError, RuntimeError, ValueError, ImportError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"evaluator weights '{checkpoint}' cannot be loaded: fetch them once with network access (and "
            f"HF_HUB_OFFLINE unset) or name a local folder in the metric's yaml; the library says: {reason}"
        ) from error
