"""AdamW followed by a projection to the unit sphere, the paper's ablation of its optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import AdamW

from dti_repro.optim.spherical_sgd import SphereOptimizer


class ProjectedAdamW(SphereOptimizer, AdamW):
    """torch's AdamW, with its settings, on unit rows, which are normalised after each step."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take a step of every parameter that has a gradient."""
        loss = super().step(closure)
        for group in self.param_groups:
            for v in group["params"]:
                if v.grad is not None:
                    v.copy_(torch.nn.functional.normalize(v, dim=-1))
        return loss
