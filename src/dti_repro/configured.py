"""Objects from their configuration nodes, with errors that a person can read.

A configuration may come from elsewhere, and is data: what it names as a `_target_` is code of this package, an
optimizer of torch or one of a few loggers, and nothing else. (Hydra's own filter keeps out os.system, but lets
torch.load and torch.hub.load through, which run code.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dti_repro.errors import InputError

PACKAGES = ("dti_repro.", "torch.optim.")
LOGGERS = tuple(
    f"pytorch_lightning.loggers.{name}"
    for name in ("CSVLogger", "TensorBoardLogger", "WandbLogger", "logger.DummyLogger")
)


def build(node: DictConfig | dict[str, Any], **settings: Any) -> Any:
    """Hydra's instantiate of a node with a `_target_`, plain containers as arguments.

    InputError for a target, however deep, that `target` refuses. An InputError raised by the object comes out as
    itself (Hydra wraps it once per nesting level); a knob that its constructor does not take, given with a `+`,
    becomes one that names both.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    for name in _targets(plain):
        target(name)
    try:
        return instantiate(plain, _convert_="all", **settings)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from error
            if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
                raise InputError(f"no such knob: {cause}") from error
            cause = cause.__cause__
        raise


def target(name: Any) -> Callable[..., Any]:
    """The class or function of a `_target_`. InputError unless it is one of this package's own, an optimizer of
    torch.optim, or a logger of the list; what a module has only imported from elsewhere is not its own."""
    refused = InputError(
        f"_target_ '{name}' is refused: configurations may name what dti_repro defines, optimizers of torch.optim, "
        f"and {', '.join(LOGGERS)}"
    )
    if not isinstance(name, str) or any(not part.isidentifier() or part[0] == "_" for part in name.split(".")):
        raise refused
    package = next((p for p in PACKAGES if name.startswith(p)), None)
    if package is None and name not in LOGGERS:
        raise refused
    try:
        found = _find(name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"_target_ '{name}' cannot be found: {error}") from error
    own = package is None or f"{getattr(found, '__module__', '')}.".startswith(package)
    if not own or not (inspect.isclass(found) or (package == "dti_repro." and inspect.isfunction(found))):
        raise refused
    return found


def _find(name: str) -> Any:
    """What lies at a dotted path: the longest prefix that is a module, then attributes."""
    module, _, attribute = name.rpartition(".")
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        found = _find(module)
    return getattr(found, attribute)


def _targets(node: Any) -> Iterator[Any]:
    """All values of `_target_` in nested plain containers."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _targets(child)
