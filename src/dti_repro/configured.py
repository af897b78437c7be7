"""Objects from their configuration nodes, with errors that a person can read."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from dti_repro.errors import InputError


def build(node: DictConfig | dict[str, Any], **settings: Any) -> Any:
    """Hydra's instantiate of a node with a `_target_`, plain containers as arguments.

    An InputError raised by the object comes out as itself (Hydra wraps it once per nesting level); a knob
    that its constructor does not take, given with a `+`, becomes one that names both.
    """
    try:
        return instantiate(node, _convert_="all", **settings)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from error
            if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
                raise InputError(f"no such knob: {cause}") from error
            cause = cause.__cause__
        raise
