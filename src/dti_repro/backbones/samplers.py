"""diffusers' schedulers by name, as samplers to draw with. No weights here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin

from dti_repro.errors import InputError

FAULTS = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, ArithmeticError, RuntimeError)
"""What schedulers raise for values that they do not take."""


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """diffusers' scheduler of this name, or InputError."""
    scheduler = getattr(diffusers, name, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise InputError(f"unknown sampler '{name}': `default` or a diffusers scheduler such as DDIMScheduler")
    return scheduler


def scheduler_options(scheduler: type[SchedulerMixin]) -> set[str]:
    """Names of the options of a scheduler's constructor."""
    return set(inspect.signature(scheduler.__init__).parameters) - {"self", "kwargs"}


def own_scheduler(folder: Path) -> SchedulerMixin:
    """Return the scheduler of the checkpoint in this folder. InputError that names the file if it is damaged."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(file.read_text())
        return scheduler_class(config["_class_name"]).from_config(config)
    except (OSError, *FAULTS) as error:
        raise InputError(f"{file} is damaged ({error!r}): copy the checkpoint again") from error


def make_sampler(own: SchedulerMixin, chosen: type[SchedulerMixin], options: Mapping[str, Any]) -> SchedulerMixin:
    """Make the chosen scheduler with the configuration of the checkpoint's own, changed by the options. InputError for
    options that it does not take."""
    known = scheduler_options(chosen)
    if unknown := set(options) - known:
        there = ", ".join(sorted(known))
        raise InputError(f"sampler.options: {chosen.__name__} has no option '{min(unknown)}' (there are: {there})")
    try:
        return chosen.from_config(own.config, **options)
    except FAULTS as error:
        raise InputError(f"sampler.options: {chosen.__name__} with {dict(options)}: {error}") from error


def check_steps(sampler: SchedulerMixin, steps: int) -> None:
    """InputError if the sampler cannot go so many steps."""
    most = sampler.config.num_train_timesteps
    if steps > most:
        raise InputError(f"steps={steps}: the model has {most} timesteps, and an image takes at most as many steps")
    try:
        sampler.set_timesteps(steps)
    except FAULTS as error:
        raise InputError(f"steps={steps} with {type(sampler).__name__}: {error}") from error
