"""The interface of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Prior(ABC):
    """Negative log prior of one concept's vectors, up to a constant."""

    @abstractmethod
    def __call__(self, vectors: Tensor, anchor: Tensor) -> Tensor:
        """vectors and anchor (vectors, dim) -> scalar. Each prior says whether it is a sum or a mean."""
