"""The von Mises-Fisher prior of DTI."""

from __future__ import annotations

import math

from torch import Tensor

from dti_repro.errors import InputError
from dti_repro.priors.prior import Prior


class VonMisesFisher(Prior):
    """-kappa <mu, v> for unit v and mu: its gradient is -kappa mu, added before the step is projected and
    normalised, so its strength is relative to the loss gradient's norm (Kim et al. 2025)."""

    def __init__(self, kappa: float) -> None:
        if not (isinstance(kappa, (int, float)) and math.isfinite(kappa) and kappa >= 0):
            raise InputError(f"method.prior.kappa is {kappa}: a number >= 0 is needed")
        self.kappa = float(kappa)

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        return -self.kappa * (vectors * anchor).sum()
