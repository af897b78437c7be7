"""Describe the machine that a plan is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat


@dataclass(frozen=True)
class Device:
    """peak_tflops: dtype -> published peak of dense matrix products. memory_gib: None where it is
    not to be judged. utilisation: assumed share of the peak that is reached. fused: whether trainer.fuse=auto is one
    pass for the whole pack on it."""

    name: str
    peak_tflops: Annotated[
        Mapping[Literal["float32", "bfloat16"], PositiveFloat],
        Field(min_length=2, description="a number above 0 for each of float32 and bfloat16"),
    ]
    memory_gib: PositiveFloat | None
    utilisation: Annotated[float, Field(gt=0, le=1)]
    fused: bool

    def seconds(self, flops: float, dtype: str) -> float:
        """Return how long these operations take at the assumed utilisation."""
        return flops / (self.peak_tflops[dtype] * 1e12 * self.utilisation)
