"""When a training ends before `trainer.steps`. No torch is imported here: what is complete is said within a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

EVALUATED = "eval_loss"
"""The column of log.csv that the rule reads: the loss on a fixed batch after each step."""


@dataclass(frozen=True)
class VarianceStop:
    """DVAR (Voronov et al. 2023): stop when the variance of the last `window` losses is below `eps` times that of all,
    as in its code."""

    window: int
    eps: float

    def __call__(self, losses: Sequence[float]) -> bool:
        """Return whether the training ends after the last of these losses, one a step."""
        if len(losses) < self.window:
            return False
        total = np.var(losses)
        return bool(total > 0 and np.var(losses[-self.window :]) / total < self.eps)


def stop_rule(trainer: DictConfig) -> VarianceStop | None:
    """Return the rule of a configuration's `trainer` node."""
    return VarianceStop(trainer.stop_window, trainer.stop_eps) if trainer.stop == "dvar" else None
