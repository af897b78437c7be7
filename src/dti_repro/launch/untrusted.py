"""Configurations from elsewhere are data. What a `_target_` may name is judged where it is built (configured.py); here
it is what Hydra would run or read by itself: launchers, sweepers, callbacks, logging, environment, the shell lines of a
job, resolvers, files outside of the folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar_parser import OmegaConfGrammarParser, parse

from dti_repro.config import CONF
from dti_repro.errors import InputError
from dti_repro.launch.command_line import CommandLine

OF_THE_CALL = ("overrides", "runtime", "searchpath")  # of Hydra's node; they say what was typed
OF_THE_JOB = ("name", "config_name", "override_dirname", "id", "num")
RESOLVERS = ("oc.select", "oc.dict.keys", "oc.dict.values")  # which read nothing but the configuration
MAX_BYTES, MAX_DEPTH, MAX_FILES = 1 << 20, 50, 1000


def check_foreign(line: CommandLine) -> None:
    """InputError that names the file if a configuration of --config-dir reads anything but itself, and one that names
    the key if they change anything of Hydra's own node, which belongs to this package and the command line alone."""
    if line.folder is None:
        return
    for file in _files(line.folder):
        try:
            _check_file(file)
        except (InputError, OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
            said = " ".join(str(error).split())
            raise InputError(f"--config-dir {line.folder}: {file.relative_to(line.folder)}: {said}") from error
    typed = [o for o in line.overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    selections = line.group_choices()
    expected = _own_node(CommandLine(line.config_name), _merged([_ours(choice) for choice in selections[0]], typed))
    for choices in selections:
        found = _own_node(line, _merged(choices, typed))
        changed = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        if changed:
            raise InputError(
                f"--config-dir {line.folder}: its configurations change hydra.{changed[0]}, which can run code: "
                "that belongs on the command line"
            )


def check_resolved(content: Any, at: str = "") -> None:
    """InputError if a resolved value looks like an interpolation: what resolves it once more would run it."""
    if isinstance(content, str) and "${" in content:
        raise InputError(f"{at} is '{content}': a value with ${{ in it is refused beside --config-dir")
    children = content.items() if isinstance(content, Mapping) else enumerate(content) if type(content) is list else ()
    for key, child in children:
        check_resolved(child, f"{at}.{key}" if at else str(key))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the yaml files that Hydra can reach below a folder, those behind links, too, but none in hidden folders."""
    seen: set[str] = set()
    count = 0
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        names = [] if real in seen else sorted(name for name in files if name.endswith(".yaml"))
        seen.add(real)
        count += len(names)
        if count > MAX_FILES:
            raise InputError(f"--config-dir {folder}: more than {MAX_FILES} yaml files: keep yours in their own folder")
        yield from (Path(place, name) for name in names)


def _check_file(file: Path) -> None:
    """Judge the text before anything is composed or resolved. ValueError, or an error of the yaml or the grammar."""
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise InputError("this is no regular file")
    if about.st_size > MAX_BYTES:
        raise InputError(f"a configuration has at most {MAX_BYTES >> 10} KiB")
    text = file.read_bytes().decode("utf-8")
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"line {event.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.ScalarEvent) and (used := _resolver(event.value)):
            raise InputError(f"line {event.start_mark.line + 1}: {used} is not taken; ${{key}} is")
    content = yaml.safe_load(text)
    defaults = content.get("defaults") if isinstance(content, dict) else None
    for entry in defaults if isinstance(defaults, list) else ():
        if re.search(r"(^|[/\s:'\"\[])\.", str(entry)):
            raise InputError(f"defaults: {entry} leads out of the folder")


def _resolver(value: str) -> str | None:
    """Return what a value calls besides the allowed resolvers, such as `${oc.env:`; None if there is nothing."""
    if "${" not in value:
        return None
    if "\\${" in value:
        return "\\${"
    nodes = [parse(value)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            name = node.resolverName().getText()
            if name not in RESOLVERS:
                return f"${{{name}:"
        nodes += node.getChildren() if hasattr(node, "getChildren") else ()
    return None


def _ours(choice: str) -> str:
    """The choice of a group with a configuration of this package instead; "" if it has none for this group."""
    key = choice.partition("=")[0]
    group = key.lstrip("+").partition("@")[0]
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if group.startswith("hydra/"):
        return choice
    return f"{key}={options[0]}" if options else ""


def _merged(choices: Sequence[str], typed: Sequence[str]) -> list[str]:
    return [*(choice for choice in choices if choice), *(override for override in typed if override not in choices)]


def _own_node(line: CommandLine, overrides: list[str]) -> dict[str, Any]:
    """Hydra's node of a configuration, by dotted name, nothing resolved."""
    node = OmegaConf.to_container(line.compose(overrides).hydra)
    for key in OF_THE_CALL:
        node.pop(key, None)
    for key in OF_THE_JOB:
        node["job"].pop(key, None)
    return dict(_flat(node, ""))


def _flat(node: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        return [(name, node)]
    return [pair for key, child in node.items() for pair in _flat(child, f"{name}.{key}" if name else str(key))]
