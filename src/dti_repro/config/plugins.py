"""The packages outside this project whose classes and configurations may be used.

The user names them: with `plugins=[my_package]` on the command line, or by installing a package that has an entry point
in the group `dti_repro.plugins`. A yaml file cannot name one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from dti_repro.errors import InputError

CONF = Path(__file__).parents[1] / "conf"
VARIABLE = "DTI_REPRO_PLUGINS"  # carries the names to the processes and jobs that a command starts


def set_plugins(packages: Sequence[str]) -> None:
    """Allow these packages, in this process and in those that it starts. Raise InputError if one cannot be found."""
    for name in packages:
        if not isinstance(name, str) or not name.isidentifier() or find_spec(name) is None:
            raise InputError(f"plugins: there is no package '{name}': install it, or set PYTHONPATH to its folder")
    os.environ[VARIABLE] = ",".join(packages)


def plugins() -> list[str]:
    """Return the names of the allowed packages, those of the command line first."""
    named = os.environ.get(VARIABLE, "")
    return list(dict.fromkeys([*(named.split(",") if named else ()), *_installed()]))


@cache
def _installed() -> list[str]:
    return sorted(point.module.partition(".")[0] for point in entry_points(group="dti_repro.plugins"))


def conf_folders() -> list[Path]:
    """Return the folders of configurations: this project's, then the `conf` folder of each plugin that has one."""
    specs = [spec for spec in map(find_spec, plugins()) if spec is not None]
    places = [Path(place) / "conf" for spec in specs for place in spec.submodule_search_locations or ()]
    return [CONF, *(place for place in places if place.is_dir())]


def choices(group: str) -> list[str]:
    """Return the names of the yaml files of a group, those of plugins included, sorted."""
    return sorted({path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml")})
