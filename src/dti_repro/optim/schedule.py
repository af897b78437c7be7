"""The learning rate of vectors as a function of their concept's own step, whatever the others of its pack do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

CONCEPT = "concept"  # the key of a parameter group that says whose it is


@dataclass(frozen=True)
class Schedule:
    """The rate rises from 0 to the optimizer's own in `warmup` steps. Then it stays (constant), or sinks until it is 0
    after `steps` steps, in a line or along half a cosine. The numbers are those of diffusers' get_scheduler."""

    kind: Literal["constant", "cosine", "linear"]
    warmup: int
    steps: int

    def factor(self, step: int) -> float:
        """Return the share of the optimizer's own rate at a step, counted from 0."""
        if step < self.warmup:
            return step / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        shares = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return max(0.0, shares[self.kind])

    def groups(self, groups: Sequence[Mapping[str, Any]], concepts: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """Return parameter groups that each hold one parameter, and say which concept has it; the same groups if the
        rate never changes."""
        if self.kind == "constant" and not self.warmup:
            return [dict(group) for group in groups]
        owners = {parameter: c for c, concept in enumerate(concepts) for parameter in concept.parameters()}
        return [{**group, "params": [p], CONCEPT: owners[p]} for group in groups for p in group["params"]]

    def apply(self, optimizer: Optimizer, steps: Sequence[int]) -> None:
        """Set the rates for the next step. steps: how many each concept has done."""
        for group in optimizer.param_groups:
            if CONCEPT in group:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = self.rate(optimizer, steps[group[CONCEPT]])

    def rate(self, optimizer: Optimizer, step: int) -> float:
        """Return the learning rate of a concept that has done so many steps."""
        group = optimizer.param_groups[0]
        return group.get("initial_lr", group["lr"]) * self.factor(step)


def split(optim: DictConfig | Mapping[str, Any], steps: int) -> tuple[dict[str, Any], Schedule]:
    """Return the settings of the optimizer, and the schedule that its node asks for. steps: of the training."""
    settings = OmegaConf.to_container(optim, resolve=True) if OmegaConf.is_config(optim) else dict(optim)
    kind, warmup = settings.pop("schedule", "constant"), settings.pop("warmup", 0)
    return settings, Schedule(kind, warmup, steps)
