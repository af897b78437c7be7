"""Prompt templates: what stands around a concept, and what the picture should then show.

`{}` is each concept by itself; `{dog} next to {mug}` names concepts. A set is a yaml in
`conf/prompt_sets/`, a file or a list.
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
MAX_BYTES = 1 << 20  # of a file: ten thousand prompts of a hundred letters
ENTRY = {"template", "expect"}
SHOWN = 80  # characters of a faulty entry in an error


@dataclass(frozen=True)
class Prompt:
    """One template, and optionally what an attribute reader should see in its picture."""

    template: str
    expect: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts named by the fields, in order, each once; empty where the template has `{}`."""
        return tuple(dict.fromkeys(name for name in _fields(self.template) if name))

    def fill(self, words: Mapping[str, str]) -> str:
        """The template with words[name] in each named field, or the only word given in each `{}`."""
        if "" in _fields(self.template):
            (word,) = words.values()
            words = {"": word}
        parts = string.Formatter().parse(self.template)
        return "".join(literal + (words[name] if name is not None else "") for literal, name, _, _ in parts)


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and where a set has them, others in their place for people and animals (which can wear a hat, but
    are no "{} made of leather")."""

    name: str
    prompts: tuple[Prompt, ...]
    live: tuple[Prompt, ...] = ()

    def about(self, live: bool) -> PromptSet:
        """The prompts for a living concept, or for any other."""
        return PromptSet(self.name, self.live if live and self.live else self.prompts)


class _Strings(WithoutAliases, yaml.BaseLoader):
    """Read every value as the text that it is."""


def load_prompts(value: object) -> PromptSet:
    """The prompts a user asked for: the name of a set, a list of templates, or a file.

    A file is .txt (one template a line, # comments), .json or .yaml (a list; or a mapping with `prompts` and, if
    people and animals have others, `live`); entries are templates or mappings {template, expect}. Raises InputError,
    naming the set, file or template.
    """
    if isinstance(value, list):
        return _prompt_set("inline", {"prompts": value}, "prompts")
    if not isinstance(value, str) or value == MISSING:
        given = "is missing" if value == MISSING else f"is {value}"
        raise InputError(f"prompts {given}: give the name of a set, a list '[\"a {{}} on a beach\"]' or a file")
    path = Path(value)
    if path.suffix in {".txt", ".json", ".yaml", ".yml"}:
        if not isfile(path):
            raise InputError(f"prompts={value}: no such file (the paper's: python -m dti_repro.download dti_prompts)")
        return _prompt_set(path.stem, _read(path), str(path))
    path = SETS / f"{value}.yaml"
    if not isfile(path):
        known = ", ".join(sorted(p.stem for p in SETS.glob("*.yaml")))
        raise InputError(
            f"prompts={value}: no such prompt set (there are: {known}); give one of these, a list "
            "'[\"a {} on a beach\"]' or a .txt, .json or .yaml file"
        )
    return _prompt_set(value, _read(path), str(path))


def _read(path: Path) -> dict:
    """A mapping with `prompts` at least."""
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8-sig")
        if path.suffix == ".txt":
            lines = (line.strip() for line in text.splitlines())
            return {"prompts": [line for line in lines if line and not line.startswith("#")]}
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Strings)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as prompts (it is nested too deeply)") from error
    except (ValueError, yaml.YAMLError, OSError) as error:
        raise InputError(f"{path}: cannot be read as prompts ({str(error).splitlines()[0]})") from error
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
    if isinstance(entry, str):
        prompt = Prompt(entry)
    elif _is_mapping(entry):
        prompt = Prompt(entry["template"], entry.get("expect") or None)
    else:
        raise InputError(
            f"{source}: {repr(entry)[:SHOWN]} is neither a template nor a mapping with template and expect, all of text"
        )
    if not check_template(prompt.template, source):
        raise InputError(f"{source}: {prompt.template[:SHOWN]!r} has no {{}} for the concept")
    return prompt


def _is_mapping(entry: object) -> bool:
    """Whether it is {template} or {template, expect}, all of text."""
    if not isinstance(entry, dict) or not isinstance(entry.get("template"), str) or not entry.keys() <= ENTRY:
        return False
    expect = entry.get("expect") or {}
    return isinstance(expect, dict) and all(isinstance(word, str) for pair in expect.items() for word in pair)


def check_template(template: str, source: str) -> list[str]:
    """Return the names in the template's fields, "" for `{}`. InputError that begins with `source` for what is no
    template."""
    try:
        template.encode()  # half of a character, which json can spell, can be written into no file
        fields = _fields(template)
    except ValueError as error:
        raise InputError(f"{source}: {template[:SHOWN]!r} is not a template ({error})") from error
    if "" in fields and any(fields):
        raise InputError(f"{source}: {template[:SHOWN]!r} mixes {{}} with named concepts; use one of the two")
    return fields


def _fields(template: str) -> list[str]:
    parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
    for _, name, spec, conversion in parsed:
        if spec or conversion or not all(c.isalnum() or c in "_-" for c in name):
            raise ValueError("a field is {} or {name}")
    return [name for _, name, _, _ in parsed]
