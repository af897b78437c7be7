"""Priors on learned vectors: the negative log density of a concept's vectors, up to a constant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor


class Prior(ABC):
    """Negative log prior of one concept's vectors, up to a constant."""

    @abstractmethod
    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        """vectors and anchor (vectors, dim) -> scalar. Each prior says whether it is a sum or a mean."""


class NoPrior(Prior):
    """Zero, whatever the vectors."""

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        return vectors.new_zeros(())


class VonMisesFisher(Prior):
    """-kappa <mu, v> for unit v and mu: its gradient is -kappa mu, added before the step is projected and
    normalised, so its strength is relative to the loss gradient's norm (Kim et al. 2025)."""

    def __init__(self, kappa: NonNegativeFloat) -> None:
        self.kappa = kappa

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        return -self.kappa * (vectors * anchor).sum()


class L2ToInitial(Prior):
    """weight * distance to the initial value, a mean over the vectors (Pang et al. 2024). distance: `unsquared` (the
    norm of the difference, the original) or `mse` (its mean square, the DTI paper's code)."""

    def __init__(self, weight: NonNegativeFloat, distance: Literal["unsquared", "mse"]) -> None:
        self.weight = weight
        self.distance = distance

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        difference = vectors - anchor
        if self.distance == "mse":
            return self.weight * difference.square().mean()
        return self.weight * torch.linalg.vector_norm(difference, dim=-1).mean()  # its gradient at 0 is 0
