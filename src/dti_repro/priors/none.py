"""No prior."""

from __future__ import annotations

from torch import Tensor

from dti_repro.priors.prior import Prior


class NoPrior(Prior):
    """Zero, whatever the vectors."""

    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        return vectors.new_zeros(())
