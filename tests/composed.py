"""Configurations of commands: Hydra composes each combination of choices once, however many tests ask for it."""

from __future__ import annotations

import pickle
from functools import cache

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dti_repro.config import CONF
from dti_repro.launch.command_line import quote_paths


def composed(command: str, *overrides: str) -> DictConfig:
    """Return the configuration of `python -m dti_repro.<command> <overrides>`, without Hydra's node."""
    quoted = [*map(quote_paths, overrides)]
    cfg = pickle.loads(_of_choices(command, *filter(_is_choice, quoted)))
    for override in OverridesParser.create().parse_overrides([o for o in quoted if not _is_choice(o)]):
        OmegaConf.update(cfg, override.key_or_group, override.value())  # as Hydra does it at last
    return cfg


def _is_choice(override: str) -> bool:
    """Return whether it may change which files are read, or adds or removes a key."""
    key = override.partition("=")[0]
    return any(sign in key for sign in "+~/@") or (CONF / key).is_dir()


@cache
def _of_choices(command: str, *overrides: str) -> bytes:
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return pickle.dumps(hydra.compose(command, overrides=[*overrides]))
