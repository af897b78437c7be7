"""Build objects from their configuration nodes, with errors that a person can read.

A configuration may come from elsewhere, and is data. The code that builds a node says which base class its `_target_`
must have; for a node inside another one, the annotation of the constructor's parameter says it. Functions are no
targets. (Hydra's `instantiate` is not used: it admits any function, and resolves a resolved configuration again.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from pkgutil import resolve_name
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from dti_repro.config.plugins import plugins
from dti_repro.config.values import check_parameter, walk
from dti_repro.errors import InputError

PACKAGES = ("dti_repro.", "torch.optim.")
LOGGERS = tuple(
    f"pytorch_lightning.loggers.{name}"
    for name in ("CSVLogger", "TensorBoardLogger", "WandbLogger", "logger.DummyLogger")
)
WANDB_KEYS = {"entity", "group", "tags", "notes", "job_type"}
"""What W&B is told besides the parameters of Lightning's logger. Others could name the server that gets the key."""
FOR_THE_RUN = {"name", "vectors"}
"""Keys that constructors need not take: the name of a run's folder, and how many vectors a word has."""
LOADER = "load"  # the one class method that a target may name instead of its class


def build(node: DictConfig | Mapping[str, Any], base: type | UnionType, at: str = "", **more: Any) -> Any:
    """Return what the node's `_target_` makes of the node's other keys and `more`.

    base: the class that the target must be or inherit from. at: the node's key, for error messages; that of a
    DictConfig is known. InputError for any other target, however deep, for settings that the constructor does not
    take, and for values that are not of the types that it is annotated with.
    """
    if isinstance(node, DictConfig):
        at = at or node._get_full_key(None)
        node = OmegaConf.to_container(node, resolve=True)
    return _build(node, base, at or "configuration", more)


def _build(node: Any, base: Any, at: str, more: Mapping[str, Any]) -> Any:
    make = target(node.get("_target_"), base)
    settings = {str(key): value for key, value in node.items() if key != "_target_"}
    if private := next((key for key in settings if key.startswith("_")), None):
        raise InputError(f"{at}.{private}: only _target_ may begin with an underscore")
    signature = _signature(make)
    if node["_target_"] in LOGGERS:
        _check_logger(node["_target_"], settings, signature, at)
    for key in FOR_THE_RUN - signature.parameters.keys():
        settings.pop(key, None)
    given = {}
    for key, value in settings.items():
        parameter = signature.parameters.get(key)
        is_annotated = parameter is not None and parameter.annotation is not parameter.empty
        hint = parameter.annotation if is_annotated else Any
        given[key] = _value(value, hint, f"{at}.{key}")
    name = node["_target_"].rpartition(".")[2] if inspect.isclass(make) else make.__self__.__name__
    try:
        signature.bind(**given, **more)
    except TypeError as error:
        raise InputError(f"no such key: {at}: {name}: {error}") from error
    if make.__module__.startswith("dti_repro."):  # its settings are checked: an error here is a bug
        return make(**given, **more)
    try:
        return make(**given, **more)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{at}: {name} does not take these settings: {' '.join(str(error).split())}") from error


def _check_logger(name: str, settings: Mapping[str, Any], signature: inspect.Signature, at: str) -> None:
    """Raise InputError for settings with which a configuration from elsewhere could name a server."""
    named = {key for key, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    known = named | (WANDB_KEYS if name.endswith("WandbLogger") else set())
    if unknown := settings.keys() - known:
        raise InputError(f"{at}.{min(unknown)} is no setting of this logger here: remove it")
    if address := next((key for key, value in settings.items() if "://" in str(value)), None):
        raise InputError(f"{at}.{address} is an address: give a folder")


def target(name: Any, base: type | UnionType) -> Callable[..., Any]:
    """Return the class of a `_target_`, or the class method `load` of one. InputError unless the class is, or inherits
    from, `base` and is defined at the top of a module of this package, of a plugin, of torch.optim or in the list of
    loggers. What a module has only imported from elsewhere is not its own."""
    wanted = " or ".join(kind.__name__ for kind in get_args(base) or (base,))
    refused = InputError(f"_target_ '{name}' is refused: a class of the kind {wanted} is needed")
    packages = (*PACKAGES, *(f"{package}." for package in plugins()))
    if not is_dotted(name) or not (name.startswith(packages) or name in LOGGERS):
        raise refused
    module = name.removesuffix(f".{LOADER}").rpartition(".")[0]
    try:
        found = resolve_name(f"{module}:{name.removeprefix(f'{module}.')}")
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"_target_ '{name}' cannot be found: {error}") from error
    loads = name.endswith(f".{LOADER}") and inspect.ismethod(found)
    kind = found.__self__ if loads else found
    if not inspect.isclass(kind) or not issubclass(kind, base) or (inspect.isabstract(kind) and not loads):
        raise refused
    package = next((package for package in packages if name.startswith(package)), "pytorch_lightning.")
    if not f"{kind.__module__}.".startswith(package):
        raise refused
    return found


def is_dotted(name: Any) -> bool:
    """Return whether this may be the name of a class: public identifiers between dots."""
    return isinstance(name, str) and "." in name and all(p.isidentifier() and p[0] != "_" for p in name.split("."))


def _signature(make: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(make, eval_str=True)
    except (NameError, TypeError):  # an annotation of another library that exists for type checkers only
        return inspect.signature(make)


def _value(value: Any, hint: Any, at: str) -> Any:
    """Return the value as the parameter takes it: built, if it is a node; text, if it is a number for text."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    bases = [kind for kind in options if _is_component(kind)]
    if isinstance(value, Mapping) and "_target_" in value:
        if not bases:
            raise InputError(f"{at}: _target_ '{value['_target_']}' is refused: this key takes plain values")
        return _build(value, reduce(or_, bases), at, {})
    for key, inner in walk(value):
        if key.endswith("_target_"):
            raise InputError(f"{at}: _target_ '{inner}' is refused: this key takes plain values")
    return check_parameter(value, hint, at)


def _is_component(kind: Any) -> bool:
    """Return whether a class is of this package or of a plugin, and so has a `_target_` where it is annotated."""
    packages = ("dti_repro.", *(f"{package}." for package in plugins()))
    return inspect.isclass(kind) and f"{kind.__module__}.".startswith(packages)
