"""AdamW with a projection to the unit sphere, the paper's ablation of its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.optim import AdamW

from dti_repro.optim.spherical_sgd import SphereOptimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class ProjectedAdamW(SphereOptimizer, AdamW):
    """torch's AdamW on unit rows, which are normalised after each step (normalise None or `each_step`), or run free and
    are normalised where they are saved (`at_end`)."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: NonNegativeFloat,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        eps: NonNegativeFloat = 1e-8,
        weight_decay: NonNegativeFloat = 1e-2,
        normalise: Literal["each_step", "at_end"] | None = None,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._at_end = normalise == "at_end"

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take a step of every parameter that has a gradient."""
        loss = super().step(closure)
        for v in () if self._at_end else self._rows():
            if v.grad is not None:
                v.copy_(torch.nn.functional.normalize(v, dim=-1))
        return loss

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        free = [(v.detach(), v.detach().clone()) for v in self._rows() if self._at_end]
        try:
            for v, rows in free:
                v.copy_(torch.nn.functional.normalize(rows, dim=-1))
            yield
        finally:
            for v, rows in free:
                v.copy_(rows)

    def _rows(self) -> list[Tensor]:
        return [v for group in self.param_groups for v in group["params"]]
