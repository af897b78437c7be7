"""CrossInit's regularisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dti_repro.errors import InputError
from dti_repro.priors.prior import Prior


class L2ToInitial(Prior):
    """weight * distance to the initial value, a mean over the vectors (Pang et al. 2024). distance: `unsquared` (the
    norm of the difference, the original) or `mse` (its mean square, the DTI paper's code)."""

    def __init__(self, weight: float, distance: str) -> None:
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise InputError(f"method.prior.weight is {weight}: a number >= 0 is needed")
        if distance not in ("unsquared", "mse"):
            raise InputError(f"method.prior.distance '{distance}' is neither unsquared nor mse")
        self.weight = float(weight)
        self.distance = distance

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        difference = vectors - anchor
        if self.distance == "mse":
            return self.weight * difference.square().mean()
        return self.weight * torch.linalg.vector_norm(difference, dim=-1).mean()  # its gradient at 0 is 0
