"""What was typed behind a command: flags and overrides, and the configuration that these make. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import DictConfig

from dti_repro.config import CONF
from dti_repro.errors import InputError

SWITCHES = ("help", "hydra_help", "resolve", "run", "shell_completion")
VALUED = ("cfg", "package", "info")
REFUSED = ("config_path", "config_name", "experimental_rerun")  # another main configuration; a pickle


@dataclass(frozen=True)
class CommandLine:
    """The arguments of one command. `folder` is --config-dir, configurations beside the package's own; `flags` are all
    others but -m."""

    config_name: str
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    multirun: bool = False
    folder: Path | None = None

    @classmethod
    def parse(cls, config_name: str, arguments: Iterable[str]) -> CommandLine:
        """Flags and overrides in any order, by Hydra's own parser. InputError for a flag that is refused."""
        found = get_args_parser().parse_intermixed_args(list(arguments))
        for name in REFUSED:
            if getattr(found, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag}: not taken here; --config-dir=<folder> adds configurations of your own")
        overrides = tuple(found.overrides)
        if any(override.lstrip("+").startswith("hydra.searchpath=") for override in overrides):
            raise InputError("hydra.searchpath: not taken here; give --config-dir=<folder>")
        switches = [f"--{name.replace('_', '-')}" for name in SWITCHES if getattr(found, name)]
        valued = [f"--{name}={getattr(found, name)}" for name in VALUED if getattr(found, name) is not None]
        folder = None if found.config_dir is None else Path(found.config_dir)
        if folder is not None and not folder.is_dir():
            raise InputError(f"--config-dir {folder}: there is no such folder")
        shown = found.cfg is not None or found.help  # of one job; Hydra takes no -m beside it
        multirun = (found.multirun or "hydra.mode=MULTIRUN" in overrides) and not shown
        return cls(config_name, overrides, (*switches, *valued), multirun, folder)

    def arguments(self) -> list[str]:
        """As they are typed, flags first: argparse takes no flag between two overrides."""
        folder = [] if self.folder is None else [f"--config-dir={self.folder}"]
        return [*self.flags, *folder, *(["-m"] if self.multirun else []), *self.overrides]

    def value(self, key: str) -> str | None:
        """The last value that an override gives to the key, without quotes; None if there is none."""
        values = [
            override.partition("=")[2] for override in self.overrides if override.lstrip("+").startswith(f"{key}=")
        ]
        return values[-1].strip("'\"") if values else None

    def without(self, *keys: str) -> CommandLine:
        """Without the overrides of these keys and of what lies below them."""
        starts = tuple(f"{key}{end}" for key in keys for end in ("=", ".", "/", "@"))
        return replace(self, overrides=tuple(o for o in self.overrides if not o.lstrip("+~").startswith(starts)))

    def adding(self, *overrides: str) -> CommandLine:
        return replace(self, overrides=(*self.overrides, *overrides))

    def compose(self, overrides: Sequence[str] | None = None) -> DictConfig:
        """The configuration, Hydra's own node included, of these overrides instead of all."""
        place = [] if self.folder is None else [f"hydra.searchpath=['file://{self.folder.resolve()}']"]
        chosen = self.overrides if overrides is None else overrides
        return compose(self.config_name, [*chosen, *place])

    def group_choices(self) -> list[list[str]]:
        """The choices of groups, and only those, of each job of a sweep: `method=ti,dti optim=adamw seed=1` ->
        [[method=ti, optim=adamw], [method=dti, optim=adamw]]."""
        roots = [CONF, *([] if self.folder is None else [self.folder])]
        found = []
        for override in OverridesParser.create().parse_overrides(list(self.overrides)):
            if override.is_delete() or not any((root / override.key_or_group).is_dir() for root in roots):
                continue
            values = override.sweep_string_iterator() if override.is_sweep_override() else ()
            found.append([f"{override.get_key_element()}={v}" for v in values] or [str(override.input_line)])
        return [list(job) for job in product(*found)]


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """A command's configuration, Hydra's own node included, whether or not a command is running already."""
    outer = get_gh_backup()  # Hydra allows no second one beside that of a running command
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
            return hydra.compose(config_name, list(overrides), return_hydra_config=True)
    finally:
        restore_gh_from_backup(outer)
