"""The types of values, the check of a value by its type, and a type in words."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from dti_repro.errors import InputError

Accelerator = Literal["cpu", "gpu", "auto"]
FolderPath = Annotated[str, Field(min_length=1, description="the path of a folder")]
Init = (
    Literal["token", "random", "vocab_mean", "contextual"]
    | Annotated[str, Field(min_length=1, description="the path of an embedding or a run")]
)
"""Where a vector starts."""
Magnitude = Literal["mean", "min", "max", "median"] | PositiveFloat
"""The norm of a vector: a statistic of the vocabulary's norms, or a number."""
Prompts = Annotated[
    list[Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]],
    Field(min_length=1, description="a list of prompts, each with one {} for the word,"),
]
Property = Literal["object", "style"]
Targets = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.\w+)*$", max_length=1000)]],
    Field(min_length=1, max_length=100, description="a list of layers' names, such as [to_q,to_k,to_out.0],"),
]
"""The ends of the names of the layers that an adapter sits on."""

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null", Any: "a value"}
SECRET = re.compile(r"(api_?key|password|passwd|secret|(access|auth)_?token)$", re.IGNORECASE)
BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}


def walk(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of everything in nested mappings and lists, a node before what is in it."""
    children = content.items() if isinstance(content, Mapping) else enumerate(content) if type(content) is list else ()
    for key, value in children:
        yield f"{prefix}{key}", value
        yield from walk(value, f"{prefix}{key}.")


def refuse_secrets(keys: Iterable[str]) -> None:
    """Raise InputError that names the first of these keys that takes a password or a key of a service."""
    if secret := next(filter(SECRET.search, keys), None):
        raise InputError(
            f"{secret}: configurations are written to files: no secret belongs in them; W&B reads WANDB_API_KEY"
        )


def check_value(value: Any, hint: Any, key: str) -> Any:
    """Return the value as its type has it (a list may stand for a tuple, as yaml has none).

    Raise InputError that names the key if the value is of another type or outside of the type's range.
    """
    try:
        adapter = TypeAdapter(hint, config=STRICT)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):  # of another library, for type checkers only
        return value
    try:
        return adapter.validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        shown = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value)[:80])
        raise InputError(f"{key} is {shown}: {words(hint)} is needed") from error


def check_parameter(value: Any, hint: Any, key: str) -> Any:
    """Return the value as a constructor takes it: as check_value, but a number for text becomes text."""
    try:
        return check_value(value, hint, key)
    except InputError:
        if type(value) in (int, float) and str in _options(hint):
            return str(value)
        raise


def words(hint: Any) -> str:
    """Return which values a type takes: `a whole number above 0`, `cpu, gpu or auto`, `a list of text or null`."""
    *first, last = dict.fromkeys(map(_words, _options(hint)))
    return f"{', '.join(first)} or {last}" if first else last


def _options(hint: Any) -> list[Any]:
    """Return the types of a union and the values of a Literal one by one."""
    if get_origin(hint) in (Union, UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [Literal[value] for value in get_args(hint)] if get_origin(hint) is Literal else [hint]


def _words(hint: Any) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        notes = [part for note in arguments[1:] for part in (note, *getattr(note, "metadata", ()))]
        if description := next(filter(None, (getattr(note, "description", None) for note in notes)), None):
            return description
        bounds = [f"{BOUNDS[b]} {getattr(note, b)}" for b in BOUNDS for note in notes if hasattr(note, b)]
        return f"{words(arguments[0])} {' and '.join(bounds)}".strip()
    if kind is Literal:
        return str(arguments[0])
    if kind in (list, tuple, Sequence):
        return f"a list of {words(arguments[0]).removeprefix('a ').replace('number', 'numbers', 1)}"
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    return WORDS.get(kind) or f"a node with a _target_ of the kind {getattr(kind, '__name__', kind)}"
