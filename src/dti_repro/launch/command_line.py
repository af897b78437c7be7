"""The arguments of a command, and the configuration that Hydra composes from them. No torch here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from dti_repro.config import CONF
from dti_repro.config.plugins import VARIABLE, conf_folders, plugins
from dti_repro.errors import InputError

PARSED = ("overrides", "multirun", "config_dir")
REFUSED = ("config_path", "config_name", "experimental_rerun")  # another main configuration; a pickle


@dataclass(frozen=True)
class CommandLine:
    """The arguments of one command. `folder` is --config-dir, further configurations; `plugins` are the packages of
    `plugins=[...]`; `flags` are all other options but -m."""

    config_name: str
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    multirun: bool = False
    folder: Path | None = None
    plugins: tuple[str, ...] = ()

    @classmethod
    def parse(cls, config_name: str, arguments: Iterable[str]) -> CommandLine:
        """Parse options and overrides in any order. Raise InputError for an option that is not allowed."""
        found = get_args_parser().parse_intermixed_args(list(map(quote_paths, arguments)))
        for name in REFUSED:
            if getattr(found, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} is not allowed: --config-dir=<folder> adds configurations of your own")
        named = [override for override in found.overrides if override.startswith("plugins=")]
        overrides = tuple(override for override in found.overrides if override not in named)
        folder = None if found.config_dir is None else Path(found.config_dir)
        if folder is not None and not folder.is_dir():
            raise InputError(f"--config-dir {folder}: there is no such folder")
        shows = found.cfg is not None or found.help  # one configuration; Hydra refuses -m with it
        multirun = (found.multirun or "hydra.mode=MULTIRUN" in overrides) and not shows
        given = {key: value for key, value in vars(found).items() if key not in PARSED and value not in (None, False)}
        flags = (f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in given.items())
        packages = named[-1].partition("=")[2].strip("[]").split(",") if named else []
        return cls(config_name, overrides, tuple(flags), multirun, folder, tuple(filter(None, packages)))

    def arguments(self) -> list[str]:
        """Return the arguments for Hydra. Options come first: argparse takes none between two overrides."""
        folder = [] if self.folder is None else [f"--config-dir={self.folder}"]
        packages = [f"++hydra.job.env_set.{VARIABLE}='{','.join(self.plugins)}'"] if self.plugins else []
        multirun = ["-m"] if self.multirun else []
        return [*self.flags, *folder, *multirun, *packages, *_search_path(None), *self.overrides]

    def value(self, key: str) -> str | None:
        """Return the last value that an override gives to the key, without quotes, or None."""
        values = [o.partition("=")[2] for o in self.overrides if o.lstrip("+").startswith(f"{key}=")]
        return values[-1].strip("'\"") if values else None

    def without(self, *keys: str) -> CommandLine:
        """Return the line without the overrides of these keys and of the keys below them."""
        starts = tuple(f"{key}{end}" for key in keys for end in ("=", ".", "/", "@"))
        return replace(self, overrides=tuple(o for o in self.overrides if not o.lstrip("+~").startswith(starts)))

    def adding(self, *overrides: str) -> CommandLine:
        """Return the line with these overrides at the end."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def compose(self, overrides: Sequence[str] | None = None) -> DictConfig:
        """Return the configuration with Hydra's node, from `overrides` in place of the line's where they are given."""
        return compose(self.config_name, self.overrides if overrides is None else overrides, self.folder)

    def group_choices(self) -> list[list[str]]:
        """Return the overrides of config groups of each job: `method=ti,dti optim=adamw seed=1` ->
        [[method=ti, optim=adamw], [method=dti, optim=adamw]]."""
        roots = [*conf_folders(), *([] if self.folder is None else [self.folder])]
        found = []
        for override in OverridesParser.create().parse_overrides(list(self.overrides)):
            if not override.is_delete() and any((root / override.key_or_group).is_dir() for root in roots):
                values = override.sweep_string_iterator() if override.is_sweep_override() else ()
                found.append([f"{override.get_key_element()}={v}" for v in values] or [str(override.input_line)])
        return [list(job) for job in product(*found)]


def compose(config_name: str, overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return a command's configuration with Hydra's node, also while another command runs. Overrides may come from a
    program or a yaml file, so their paths are quoted here, too."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
            return hydra.compose(
                config_name, [*map(quote_paths, overrides), *_search_path(folder)], return_hydra_config=True
            )
    finally:
        GlobalHydra.instance().hydra = running


def running_command(config_name: str, *left_out: str) -> str:
    """Return the command that runs, for a shell: its options and overrides, without the keys `left_out`, which change
    no number of its result. A folder of configurations below this one is given by its path from here."""
    running = HydraConfig.get()
    folders = [source.path for source in running.runtime.config_sources if source.provider == "command-line"]
    here = f"{Path.cwd()}/"
    options = [f"--config-dir={path.removeprefix('file://').removeprefix(here)}" for path in folders]
    named = [f"plugins=[{','.join(plugins())}]"] if plugins() else []
    line = CommandLine(config_name, tuple(running.overrides.task)).without(*left_out)
    return shlex.join(["python", "-m", f"dti_repro.{config_name}", *options, *named, *line.overrides])


def _search_path(folder: Path | None) -> list[str]:
    """Return the override that adds the configurations of plugins, and those of a folder, to Hydra's search path."""
    places = [*conf_folders()[1:], *([] if folder is None else [folder.resolve()])]
    quoted = ["'file://" + str(place).replace("'", "\\'") + "'" for place in places]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if places else []


def quote_paths(argument: str) -> str:
    """Return an override that Hydra cannot read with quotes around its value: a path may have spaces, parentheses or
    `~`, which becomes the home folder. Each value of a sweep or of a list is quoted by itself."""
    key, _, value = argument.partition("=")
    if not value or argument.startswith("-") or '"' in value or value[0] in "'{" or _is_readable(argument):
        return argument
    listed = value[0] == "[" and value[-1] == "]" and "'" not in value
    items = (value[1:-1] if listed else value).split(",")
    quoted = ",".join(i if _is_readable(f"x={i}") else f'"{os.path.expanduser(i.strip())}"' for i in items)
    return f"{key}=[{quoted}]" if listed else f"{key}={quoted}"


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
