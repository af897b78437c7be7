"""What optimizers of unit rows share: they take nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

UNIT_TOLERANCE = 1e-3  # a float32 or bfloat16-born row counts as unit within this


class SphereOptimizer(Optimizer):
    """Keeps the rows (last dimension) of its parameters on the unit sphere. ValueError for rows that are not
    there."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            _check_unit(parameter)


def _check_unit(rows: Tensor) -> None:
    with torch.no_grad():
        norms = torch.linalg.vector_norm(rows, dim=-1) if rows.ndim else rows.new_zeros(1)
        near = (norms - 1).abs() <= UNIT_TOLERANCE  # false for no number
        if rows.ndim == 0 or bool((~near).any()):
            raise ValueError(
                f"rows of norm {norms.min().item():.4g} to {norms.max().item():.4g} are not on the unit sphere"
            )
