"""Normalised Riemannian gradient descent on the unit sphere, DTI's optimizer (Kim et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from dti_repro.optim.sphere_optimizer import SphereOptimizer


class SphericalSGD(SphereOptimizer):
    """For each row v (last dimension) with gradient g:

        g <- g - <g, v> v             unless tangent=False
        g <- g / (|g| + eps)
        v <- normalise(v - lr g)

    so that a step turns v by arctan(lr), about lr radians, whatever the gradient's size. With beta > 0, |g|
    is the root of the bias-corrected exponential average of |g|^2. A prior enters through the loss. A row
    whose gradient is zero stays where it is, to the bit. Raises ValueError for rows that are not unit.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: PositiveFloat,
        beta: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        eps: PositiveFloat = 1e-8,
        tangent: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps, "tangent": tangent})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for v in group["params"]:
                if v.grad is not None:
                    self._step_rows(v, v.grad, group)
        return loss

    def _step_rows(self, v: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if group["tangent"]:
            g = g - (g * v).sum(dim=-1, keepdim=True) * v
        norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        still = norm == 0
        if beta := group["beta"]:
            state = self.state[v]
            if not state:
                state["step"] = torch.zeros(())
                state["square"] = torch.zeros_like(norm)
            state["step"] += 1
            state["square"].mul_(beta).add_(norm.square(), alpha=1 - beta)
            norm = (state["square"] / (1 - beta ** state["step"].item())).sqrt()
        moved = torch.nn.functional.normalize(v - group["lr"] * g / (norm + group["eps"]), dim=-1)
        v.copy_(torch.where(still, v, moved))
