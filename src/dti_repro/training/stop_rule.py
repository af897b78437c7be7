"""When a training ends before `trainer.steps`. No torch is imported here: what is complete is said within a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig

EVALUATED = "eval_loss"
"""The column of log.csv that the rule reads: the loss on a fixed batch after each step."""


def has_settled(losses: Sequence[float], trainer: DictConfig) -> bool:
    """Return whether a training with `trainer.stop` ends after the last of these losses, one a step.

    DVAR (Voronov et al. 2023) stops when the variance of the last `stop_window` losses is below `stop_eps` times that
    of all, as in its code.
    """
    if len(losses) < trainer.stop_window:
        return False
    total = np.var(losses)
    return bool(total > 0 and np.var(losses[-trainer.stop_window :]) / total < trainer.stop_eps)
