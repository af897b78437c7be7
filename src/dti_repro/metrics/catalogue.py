"""The metrics that exist (one yaml each in ``conf/metric``), what identifies one, and loading it. Imports no
torch."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints

if TYPE_CHECKING:
    from dti_repro.metrics.metric import ImageMetric

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


def load_metric(config: dict[str, Any]) -> "ImageMetric":
    """The metric with its weights loaded. InputError where these are missing."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:  # Hydra wraps once per nesting level
            if isinstance(cause, InputError):
                raise cause from error
            cause = cause.__cause__
        raise
