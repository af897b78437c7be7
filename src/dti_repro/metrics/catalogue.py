"""The metrics that exist (one yaml each in ``conf/metric``), and what identifies one. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_yaml
from dti_repro.config.plugins import conf_folders
from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints


def metric_names() -> list[str]:
    """Return the names of conf/metric, those of plugins included, sorted."""
    return sorted({path.stem for folder in conf_folders() for path in (folder / "metric").glob("*.yaml")})


def metric_config(name: str) -> dict[str, Any]:
    """Return the yaml of a metric: a name of conf/metric, or the path of a yaml of one's own. InputError for an unknown
    name and for a yaml without a checkpoint."""
    named = [folder / "metric" / f"{name}.yaml" for folder in conf_folders()]
    places = [Path(name)] if name.endswith(".yaml") else named
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"metric '{name}' is unknown; there are {', '.join(metric_names())}")
    config = read_yaml(path)
    if "_target_" not in config:
        raise InputError(f"metric {path} has no _target_: name the metric's class")
    if not isinstance(_weights(config), str):
        raise InputError(f"metric {path} has no checkpoint: name the evaluator's weights, in it or in its encoder")
    return config


def metric_identity(config: dict[str, Any]) -> str:
    """What must be equal for a stored score to be this metric's: its configuration and the weights' bytes or
    name."""
    weights = checkpoints.fingerprint(_weights(config))
    return hashlib.sha256(json.dumps([config, weights], sort_keys=True).encode()).hexdigest()[:16]


def _weights(config: dict[str, Any]) -> Any:
    """The name of the checkpoint; None if there is none."""
    encoder = config.get("encoder", config)
    return encoder.get("checkpoint") if isinstance(encoder, dict) else None
