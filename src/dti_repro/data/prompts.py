"""Prompt templates: the text around a concept, and what the image should then show.

`{}` is each concept by itself; `{dog} next to {mug}` names concepts. A set is a yaml in `conf/prompt_sets/`, a file or
a list.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

import yaml
from omegaconf import MISSING

from dti_repro.artifacts.files import WithoutAliases, read_regular
from dti_repro.config import CONF
from dti_repro.errors import InputError

# Not conf/prompts: Hydra would take `prompts=` for the choice of a config group, and refuse lists and files.
SETS = CONF / "prompt_sets"
SUFFIXES = (".txt", ".json", ".yaml", ".yml")
MAX_BYTES = 1 << 20  # of a file: ten thousand prompts of a hundred letters
MAX_SHOWN = 80  # characters of a faulty entry in an error


@dataclass(frozen=True)
class Prompt:
    """A template, and optionally what an attribute reader should see in its image."""

    template: str
    expect: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts that the fields name, in order, each once; empty if the template has `{}`."""
        return tuple(dict.fromkeys(name for name in _fields(self.template) if name))

    def fill(self, words: Mapping[str, str]) -> str:
        """Return the template with words[name] in each named field, or with the only word in each `{}`."""
        if "" in _fields(self.template):
            (word,) = words.values()
            words = {"": word}
        parts = string.Formatter().parse(self.template)
        return "".join(literal + (words[name] if name is not None else "") for literal, name, _, _ in parts)


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and optionally others for people and animals, as some prompts fit only things."""

    name: str
    prompts: tuple[Prompt, ...]
    live: tuple[Prompt, ...] = ()

    def about(self, live: bool) -> PromptSet:
        """Return the prompts for a living concept, or for any other."""
        return PromptSet(self.name, self.live if live and self.live else self.prompts)


class _TextLoader(WithoutAliases, yaml.BaseLoader):
    """Reads every yaml value as text."""


def load_prompts(value: object) -> PromptSet:
    """Return the prompts of the key `prompts`: the name of a set, a list of templates, or a file.

    A file is .txt (one template a line, # comments), .json or .yaml (a list; or a mapping with `prompts` and, if
    people and animals have others, `live`). An entry is a template or a mapping {template, expect}. InputError that
    names the set, the file or the template.
    """
    if isinstance(value, list):
        return _prompt_set("inline", {"prompts": value}, "prompts")
    if not isinstance(value, str) or value == MISSING:
        given = "is missing" if value == MISSING else f"is {value}"
        raise InputError(f"prompts {given}: give the name of a set, a list '[\"a {{}} on a beach\"]' or a file")
    file = Path(value)
    if file.suffix in SUFFIXES:
        if not isfile(file):
            raise InputError(f"prompts={value}: no such file (the paper's: python -m dti_repro.download dti_prompts)")
        return _prompt_set(file.stem, _read(file), str(file))
    file = SETS / f"{value}.yaml"
    if not isfile(file):  # Path.is_file raises an error for a name that is too long
        known = ", ".join(sorted(path.stem for path in SETS.glob("*.yaml")))
        raise InputError(
            f"prompts={value}: no such prompt set (there are: {known}); give one of these, a list "
            "'[\"a {} on a beach\"]' or a .txt, .json or .yaml file"
        )
    return _prompt_set(value, _read(file), str(file))


def check_template(template: str, source: str) -> list[str]:
    """Return the names in the template's fields, "" for `{}`. InputError that begins with `source` if the text is not a
    template."""
    try:
        template.encode()  # json can spell half of a surrogate pair, which no file can hold
        fields = _fields(template)
    except ValueError as error:
        raise InputError(f"{source}: {template[:MAX_SHOWN]!r} is not a template ({error})") from error
    if "" in fields and any(fields):
        raise InputError(f"{source}: {template[:MAX_SHOWN]!r} mixes {{}} with named concepts; use one of the two")
    return fields


def _read(file: Path) -> dict:
    """Return the file's content as a mapping."""
    try:
        text = read_regular(file, MAX_BYTES).decode("utf-8-sig")
        if file.suffix == ".txt":
            lines = (line.strip() for line in text.splitlines())
            return {"prompts": [line for line in lines if line and not line.startswith("#")]}
        content = json.loads(text) if file.suffix == ".json" else yaml.load(text, _TextLoader)
    except InputError:
        raise
    except (ValueError, yaml.YAMLError, OSError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise InputError(f"{file}: cannot be read as prompts ({reason})") from error
    return content if isinstance(content, dict) else {"prompts": content}


def _prompt_set(name: str, content: dict, source: str) -> PromptSet:
    prompts, live = content.get("prompts"), content.get("live", [])
    if not isinstance(prompts, list) or not isinstance(live, list):
        raise InputError(f"{source}: a list of prompts is needed, or a mapping with lists `prompts` and `live`")
    if not prompts:
        raise InputError(f"{source}: there is no prompt in it")
    found = PromptSet(name, *(tuple(_prompt(entry, source) for entry in entries) for entries in (prompts, live)))
    if live and (named := next((p for p in (*found.prompts, *found.live) if p.names), None)):
        raise InputError(f"{source}: {named.template!r} names concepts, and the set has prompts of two kinds: use {{}}")
    return found


def _prompt(entry: object, source: str) -> Prompt:
    fields = {"template": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
    template, expect = fields.get("template"), fields.get("expect") or {}
    is_text = isinstance(expect, dict) and all(isinstance(text, str) for text in (template, *expect, *expect.values()))
    if not is_text or not fields.keys() <= {"template", "expect"}:
        raise InputError(
            f"{source}: {repr(entry)[:MAX_SHOWN]} is neither a template nor a mapping with template and expect, all of "
            "text"
        )
    if not check_template(template, source):
        raise InputError(f"{source}: {template[:MAX_SHOWN]!r} has no {{}} for the concept")
    return Prompt(template, expect or None)


def _fields(template: str) -> list[str]:
    parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
    for _, name, spec, conversion in parsed:
        if spec or conversion or not all(c.isalnum() or c in "_-" for c in name):
            raise ValueError("a field is {} or {name}")
    return [name for _, name, _, _ in parsed]
