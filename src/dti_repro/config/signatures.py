"""Read the types of a constructor's parameters from its source.

Most components import torch, which takes seconds: a value that a constructor cannot take is named before that.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from dti_repro.config import values
from dti_repro.config.build import is_dotted

SOURCES = Path(__file__).parent.parent


class _Names(dict):
    """Names that annotations are made of. An unknown name, such as a component class, becomes Any."""

    def __missing__(self, name: str) -> Any:
        modules = (values, pydantic, collections.abc, typing, builtins)
        return next((getattr(module, name) for module in modules if hasattr(module, name)), Any)


@cache
def parameter_types(target: str) -> Mapping[str, Any]:
    """Return parameter -> type of the constructor of a class of this package; nothing for a constructor that is
    inherited and for a class that does not exist.
    """
    module, _, name = target.rpartition(".")
    file = SOURCES.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not is_dotted(target) or not module.startswith("dti_repro.") or not file.is_file():
        return {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            parameters = [] if init is None else [*init.args.args, *init.args.kwonlyargs]
            return {p.arg: eval(ast.unparse(p.annotation), {}, _Names()) for p in parameters if p.annotation}
    return {}


def component_types(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> type of the plain keys that are set, at any depth, of the nodes with a `_target_`."""
    types = parameter_types(str(content.get("_target_", "")))
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= component_types(value, f"{prefix}{key}.")
        if types.get(key, Any) is not Any and not (isinstance(value, Mapping) and "_target_" in value):
            found[prefix + key] = types[key]
    return found
