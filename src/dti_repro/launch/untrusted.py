"""Checks of the configurations of --config-dir, which may come from anyone and are data.

A yaml there may set the keys of a command and the `_target_` of its groups, which `config.target` checks. It may not
touch Hydra's settings (launcher, sweeper, callbacks, logging, environment, search path: they can run code), and it may
not read anything but the configuration: no environment variable, no file outside its folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dti_repro.config.values import walk
from dti_repro.errors import InputError

REFERENCE = re.compile(r"\$\{\.*\w[\w.]*\}")  # ${key}, ${..key}: the only interpolations that are allowed
MAX_BYTES, MAX_DEPTH, MAX_FILES = 1 << 20, 50, 1000


def check_untrusted(folder: Path) -> None:
    """Raise InputError, which names the file, if a yaml file of this folder is not allowed. Nothing is composed or
    resolved for it."""
    for count, file in enumerate(_yaml_files(folder)):
        try:
            if count >= MAX_FILES:
                raise InputError(f"there are more than {MAX_FILES} yaml files: keep yours in a folder of their own")
            _check_file(file, file.relative_to(folder))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--config-dir {folder}: {file.relative_to(folder)}: {reason}") from error


def check_resolved(content: Any) -> None:
    """Raise InputError if a resolved value looks like an interpolation, which would run when it is resolved again."""
    for key, value in walk(content):
        if isinstance(value, str) and "${" in value:
            raise InputError(f"{key} is '{value}': with --config-dir a value must not contain ${{")


def _yaml_files(folder: Path) -> Iterator[Path]:
    """Yield the yaml files below a folder, also those behind links, as Hydra follows them."""
    waiting = [(folder, frozenset[str]())]
    for _ in range(MAX_FILES):
        if not waiting:
            return
        place, above = waiting.pop()
        real = os.path.realpath(place)
        if real in above:  # a link to a folder that it is in; any other is read under each of its names
            continue
        entries = sorted(place.iterdir()) if os.access(place, os.R_OK | os.X_OK) else []
        yield from (path for path in entries if path.name.endswith(".yaml") and not path.is_dir())
        waiting += [(path, above | {real}) for path in entries if path.is_dir() and not path.name.startswith(".")]
    raise InputError(
        f"--config-dir {folder}: more than {MAX_FILES} folders: keep your configurations in one of their own"
    )


def _check_file(file: Path, name: Path) -> None:
    about = file.stat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
        raise InputError(f"a configuration is a regular file of at most {MAX_BYTES >> 10} KiB")
    text = file.read_bytes().decode("utf-8")
    depth = 0
    for event in yaml.parse(text):
        line = f"line {event.start_mark.line + 1}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{line}: an alias (*{event.anchor}) is not allowed")
        if depth > MAX_DEPTH:
            raise InputError(f"{line}: nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.ScalarEvent) and "${" in REFERENCE.sub("", event.value):
            raise InputError(f"{line}: '{event.value[:80]}' is not allowed; ${{key}} is")
    content = yaml.safe_load(text)
    keys = [str(key) for key in content] if isinstance(content, dict) else []
    defaults = content.get("defaults") if isinstance(content, dict) else None
    headers = re.findall(r"@\s*package\b.*", text)
    if re.search(r"\bhydra\b", " ".join([*name.with_suffix("").parts, *keys, *headers, str(defaults)])):
        raise InputError("it changes hydra's settings, which can run code: give them on the command line")
    if re.search(r"(^|[/\s:'\"\[{])\.", str(defaults)):
        raise InputError(f"defaults: {defaults} leads out of the folder")
