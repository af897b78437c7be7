"""Normalised Riemannian gradient descent on the unit sphere, DTI's optimizer (Kim et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.optim import Optimizer

UNIT_TOLERANCE = 1e-3  # a row that comes from float32 or bfloat16 counts as unit within this


class SphereOptimizer(Optimizer):
    """Learns unit rows (last dimension). ValueError for parameters whose rows have another norm at the start."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for rows in self.param_groups[-1]["params"]:
            norms = torch.linalg.vector_norm(rows.detach(), dim=-1) if rows.ndim else torch.zeros(1)
            outside = ~((norms - 1).abs() <= UNIT_TOLERANCE)  # nan is outside, too
            if bool(outside.any()):
                raise ValueError(
                    f"rows of norm {norms.min().item():.4g} to {norms.max().item():.4g} are not on the unit sphere"
                )

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Give the parameters the values that are saved, while the context is open."""
        yield


class SphericalSGD(SphereOptimizer):
    """For each row v (last dimension) with gradient g:

        g <- g - <g, v> v             unless tangent=False
        g <- g / (|g| + eps)
        v <- normalise(v - lr g)

    so a step turns v by arctan(lr), about lr radians, whatever the gradient's size. With beta > 0, |g| is the
    root of the bias-corrected exponential average of |g|^2. A prior enters through the loss. A row whose
    gradient is zero stays as it is, to the bit.
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
        """Take a step of every parameter that has a gradient."""
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
        unmoved = norm == 0
        if beta := group["beta"]:
            state = self.state[v]
            if not state:
                state["step"] = torch.zeros(())
                state["square"] = torch.zeros_like(norm)
            state["step"] += 1
            state["square"].mul_(beta).add_(norm.square(), alpha=1 - beta)
            norm = (state["square"] / (1 - beta ** state["step"].item())).sqrt()
        moved = torch.nn.functional.normalize(v - group["lr"] * g / (norm + group["eps"]), dim=-1)
        v.copy_(torch.where(unmoved, v, moved))
