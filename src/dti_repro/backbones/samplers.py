"""diffusers' schedulers by name, as samplers. No weights are read here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin

from dti_repro.errors import InputError

ERRORS = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, ArithmeticError, RuntimeError)
"""What schedulers raise for values that they do not take."""


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """Return diffusers' scheduler of this name. InputError if there is none."""
    scheduler = getattr(diffusers, name, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise InputError(f"unknown sampler '{name}': `default` or a diffusers scheduler such as DDIMScheduler")
    return scheduler


def scheduler_options(scheduler: type[SchedulerMixin]) -> set[str]:
    """Return the names of the options of a scheduler's constructor."""
    return set(inspect.signature(scheduler.__init__).parameters) - {"self", "kwargs"}


def checkpoint_scheduler(folder: Path) -> SchedulerMixin:
    """Return the scheduler of the checkpoint in this folder. InputError that names the file if it is damaged."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(file.read_text())
        return scheduler_class(config["_class_name"]).from_config(config)
    except (OSError, *ERRORS) as error:
        raise InputError(f"{file} is damaged ({error!r}): copy the checkpoint again") from error


def make_sampler(
    scheduler: SchedulerMixin, sampler: type[SchedulerMixin], options: Mapping[str, Any]
) -> SchedulerMixin:
    """Return a sampler with the config of the checkpoint's scheduler, changed by the options. InputError for options
    that it does not take."""
    known = scheduler_options(sampler)
    if unknown := set(options) - known:
        choices = ", ".join(sorted(known))
        raise InputError(f"sampler.options: {sampler.__name__} has no option '{min(unknown)}' (there are: {choices})")
    try:
        return sampler.from_config(scheduler.config, **options)
    except ERRORS as error:
        raise InputError(f"sampler.options: {sampler.__name__} with {dict(options)}: {error}") from error


def check_steps(sampler: SchedulerMixin, steps: int) -> None:
    """Raise InputError if the sampler cannot take this number of steps."""
    timesteps = sampler.config.num_train_timesteps
    if steps > timesteps:
        raise InputError(f"steps={steps}: the model has {timesteps} timesteps, and an image takes at most as many")
    try:
        sampler.set_timesteps(steps)
    except ERRORS as error:
        raise InputError(f"steps={steps} with {type(sampler).__name__}: {error}") from error
