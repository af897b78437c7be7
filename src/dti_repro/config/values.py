"""Judge one value by its type, and say in words which values a type takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dti_repro.errors import InputError

Accelerator = Literal["cpu", "gpu", "auto"]
FolderPath = Annotated[str, Field(min_length=1, description="the path of a folder")]
Init = Literal["token", "random", "vocab_mean"]
"""Where a vector starts."""
Magnitude = Literal["mean", "min", "max", "median"] | PositiveFloat
"""The norm of a vector: a statistic of the vocabulary's norms, or a number."""
Property = Literal["object", "style"]
_Layer = Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}(\.\w{1,100}){0,20}$")]
Targets = Annotated[
    list[_Layer],
    Field(min_length=1, max_length=100, description="a list of layers' names, such as [to_q,to_k,to_out.0],"),
]
"""The ends of the names of the layers that an adapter sits on."""

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
MISSING = "???"
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's errors about a key that there is not
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null", Any: "a value"}
BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}


def check_value(value: Any, hint: Any, key: str) -> Any:
    """Return the value as a parameter of this type takes it: a number for text becomes text. InputError that names the
    key for a value of another type or outside of the type's range.
    """
    try:
        adapter = TypeAdapter(hint, config=STRICT)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):  # an annotation that says nothing at run time
        return value
    try:
        return adapter.validate_json(json.dumps(value, default=str))  # yaml has no tuples, either
    except ValidationError as error:
        if type(value) in (int, float) and str in options(hint):
            return str(value)
        raise refusal(error.errors()[0], hint, value, key) from error


def refusal(first: ErrorDetails, hint: Any, value: Any, key: str = "") -> InputError:
    """Return one line about an error of pydantic: the dotted key, its value and what is needed.

    hint and value are what was validated as a whole, and key is its name.
    """
    location = list(first["loc"])
    if first["type"] in ("missing", *UNKNOWN):
        *location, name = location
    while location and (inner := _inner(hint, value, location[0])):
        hint, value, part = inner
        key = f"{key}{part}" if key else part.lstrip(".")
        del location[0]
    if first["type"] == "missing":
        field = _fields(hint)[str(name)]
        return InputError(f"{key}: {name} is missing ({words(Annotated[field.annotation, field])})".removeprefix(": "))
    if first["type"] in UNKNOWN:
        return InputError(f"{key} has no key '{name}' (its keys: {', '.join(sorted(_fields(hint)))})".lstrip())
    if isinstance(rule := first.get("ctx", {}).get("error"), InputError):
        return rule
    return InputError(f"{key} is {show(value)}: {words(hint)} is needed")


def show(value: Any) -> str:
    """Return the value as it is written in a yaml, shortened."""
    text = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def words(hint: Any) -> str:
    """Return which values a type takes: `a whole number above 0`, `cpu, gpu or auto`, `a list of text or null`."""
    *first, last = dict.fromkeys(_words(option) for option in options(hint))
    return f"{', '.join(first)} or {last}" if first else last


def options(hint: Any) -> list[Any]:
    """Return the types of a union and the values of a Literal one by one."""
    if get_origin(hint) in (Union, UnionType):
        return [option for part in get_args(hint) for option in options(part)]
    if get_origin(hint) is Annotated and not _notes(hint):
        return options(get_args(hint)[0])
    return [Literal[value] for value in get_args(hint)] if get_origin(hint) is Literal else [hint]


def _words(hint: Any) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        notes = _notes(hint)
        bounds = [f"{BOUNDS[name]} {notes[name]}" for name in BOUNDS if name in notes]
        return notes.get("description") or f"{words(arguments[0])} {' and '.join(bounds)}".strip()
    if kind is Literal:
        return str(arguments[0])
    if kind in (list, tuple, Sequence):
        return f"a list of {words(arguments[0]).removeprefix('a ').replace('number', 'numbers', 1)}"
    if inspect.isclass(kind) and (issubclass(kind, Mapping | BaseModel) or hasattr(kind, "__pydantic_fields__")):
        return "a mapping"
    return WORDS.get(kind) or f"a node with a _target_ of the kind {getattr(kind, '__name__', kind)}"


def _notes(hint: Any) -> dict[str, Any]:
    """Return the description and the bounds of an annotated type."""
    notes = [part for note in get_args(hint)[1:] for part in (*getattr(note, "metadata", ()), note)]
    names = ("description", *BOUNDS)
    return {name: found for name in names for note in notes if (found := getattr(note, name, None)) is not None}


def _fields(hint: Any) -> dict[str, FieldInfo]:
    """Return the fields of a model or of a pydantic dataclass, which may be one of a union."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((part.__pydantic_fields__ for part in parts if hasattr(part, "__pydantic_fields__")), {})


def _inner(hint: Any, value: Any, part: str | int) -> tuple[Any, Any, str] | None:
    """Return the type, the value and the name of what lies at a part of a location; None for a plain value's parts."""
    if field := _fields(hint).get(str(part)):
        return Annotated[field.annotation, field], value[part], f".{part}"
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if isinstance(part, int) and get_args(hint) and _fields(get_args(hint)[0]):
        item = value[part]
        name = item.get("name", part) if isinstance(item, Mapping) else part
        return get_args(hint)[0], item, f"[{name}]"
    return None
