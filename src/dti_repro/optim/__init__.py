"""Optimizers over rows of unit vectors."""

from dti_repro.optim.projected_adamw import ProjectedAdamW
from dti_repro.optim.spherical_sgd import SphericalSGD

__all__ = ["ProjectedAdamW", "SphericalSGD"]
