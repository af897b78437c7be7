"""Compare the type of each value on the command line with that of the default it replaces. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dti_repro.config import CONF
from dti_repro.config.build import NAMES
from dti_repro.errors import InputError

LISTS = ("files", "metrics", "names", "prompts", "rows", "seeds")
"""Keys that take a single value and a list alike."""
TEXTS = ("metrics", "setup", "train", "generate", "files")
"""Lists of text."""
WITHOUT_DEFAULT = {
    **dict.fromkeys(("backbone.path", "masks", "out", "run", "searched", "start_from", "trainer.latents"), str),
    **dict.fromkeys(("backbone.resolution", "height", "snapshot", "subjects", "width"), int),
}
"""Keys whose default is null."""
SWITCHES = ("fuse",)
"""Keys whose default is text and that take true and false, too."""
MISSING = object()


def check_types(
    config_name: str, overrides: Sequence[str], cfg: DictConfig, choices: Mapping[str, str], folder: Path | None = None
) -> None:
    """InputError that names the key if the overrides give a value of another type than the default has: text for a
    number, a list for text, null for either.

    choices: Hydra's group -> name. folder: of --config-dir. What a constructor takes is judged where it is built.
    """
    defaults = _Defaults(config_name, choices, folder)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete() or override.package is not None or key in choices or key.startswith("hydra"):
            continue
        node = OmegaConf.select(cfg, key, throw_on_missing=False)
        value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for name, given, default in _pairs(key, value, defaults.value(key)):
            parent, _, last = name.rpartition(".")
            target = OmegaConf.select(cfg, f"{parent}._target_", throw_on_missing=False)
            built = target is not None and not isinstance(given, (list, Mapping))
            open_to = built and (given is None or isinstance(default, str) or folder is not None)
            wanted = _other_type(last, given, default)
            if default is None and given is not None and name in WITHOUT_DEFAULT:
                kind, open_to = WITHOUT_DEFAULT[name], False
                wanted = wanted or (None if type(given) is kind else NAMES[kind])
            if wanted and not open_to:
                raise InputError(f"{name} is {'null' if given is None else given}: {wanted} is needed")


class _Defaults:
    """The values in the yaml files of a command and of its choices."""

    def __init__(self, config_name: str, choices: Mapping[str, str], folder: Path | None) -> None:
        roots = [CONF] if folder is None else [folder, CONF]
        self._files: dict[str, Any] = {"": _read(roots, config_name)}
        for group, name in choices.items():
            path, _, package = group.partition("@")
            if name is not None and not group.startswith("hydra"):
                self._files[package or path.replace("/", ".")] = _read(roots, f"{path}/{name}")

    def value(self, key: str) -> Any:
        """The default of a dotted key, not resolved further than to another key; MISSING if there is none."""
        for package in sorted(self._files, key=len, reverse=True):
            if package == "" or f"{key}.".startswith(f"{package}."):
                found = _select(self._files[package], key[len(package) :].strip("."))
                if found is not MISSING:
                    other = re.fullmatch(r"\$\{([\w.]+)\}", found) if isinstance(found, str) else None
                    return self.value(other[1]) if other else found
        return MISSING


def _read(roots: Sequence[Path], name: str) -> Any:
    file = next((file for root in roots if (file := root / f"{name}.yaml").is_file()), None)
    return {} if file is None else OmegaConf.to_container(OmegaConf.load(file))


def _select(content: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            return MISSING
        content = content[part]
    return content


def _pairs(key: str, given: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """The values to compare: of two mappings those below them."""
    if not (isinstance(given, Mapping) and isinstance(default, Mapping)):
        yield key, given, default
        return
    for name, child in given.items():
        yield from _pairs(f"{key}.{name}", child, default.get(name, MISSING))


def _other_type(name: str, given: Any, default: Any) -> str | None:
    """What is needed instead; None if the value may stand for the default."""
    listed = isinstance(given, list) and name in LISTS
    if default is MISSING or given == "???":
        return None
    if isinstance(default, bool):
        return None if isinstance(given, bool) else "true or false"
    if isinstance(default, (int, float)):
        return None if isinstance(given, (int, float)) and not isinstance(given, bool) else "a number"
    if isinstance(default, Mapping):
        return None if isinstance(given, Mapping) else "a mapping"
    if isinstance(default, list):
        if name in TEXTS and isinstance(given, list):
            return None if all(isinstance(item, str) for item in given) else "a list of text"
        single = isinstance(given, str if name != "seeds" else int) and name in LISTS and name != "rows"
        return None if isinstance(given, list) or single else "a list"
    if given is None:
        return None if default is None else "a value"
    if isinstance(given, (list, Mapping)):
        plain = listed and not any(isinstance(item, (list, Mapping)) for item in given)
        return None if plain else "a single value"
    return "text" if isinstance(default, str) and not isinstance(given, str) and name not in SWITCHES else None
