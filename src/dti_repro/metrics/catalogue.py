"""The metrics that exist (one yaml each in ``conf/metric``), and what identifies one. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints

_CONF = Path(__file__).parents[1] / "conf" / "metric"


def metric_names() -> list[str]:
    """Names of conf/metric, sorted."""
    return sorted(path.stem for path in _CONF.glob("*.yaml"))


def metric_config(name: str) -> dict[str, Any]:
    """The yaml of a metric: a name of conf/metric, or the path of a yaml of one's own."""
    path = Path(name) if name.endswith(".yaml") else _CONF / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"metric '{name}' is unknown; there are {', '.join(metric_names())}")
    return yaml.safe_load(path.read_text())


def metric_identity(config: dict[str, Any]) -> str:
    """What must be equal for a stored score to be this metric's: its configuration and the weights' bytes or
    name."""
    checkpoint = config.get("encoder", config)["checkpoint"]
    weights = checkpoints.fingerprint(checkpoint)
    return hashlib.sha256(json.dumps([config, weights], sort_keys=True).encode()).hexdigest()[:16]
