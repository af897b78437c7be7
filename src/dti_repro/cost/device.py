"""Describe the machine that a plan is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dti_repro.errors import InputError


@dataclass(frozen=True)
class Device:
    """peak_tflops: dtype (float32, bfloat16) -> published peak of dense matrix products. memory_gib: None where it is
    not to be judged. utilisation: assumed share of the peak that is reached. fused: whether trainer.fuse=auto is one
    pass for the whole pack on it."""

    name: str
    peak_tflops: Mapping[str, float]
    memory_gib: float | None
    utilisation: float
    fused: bool

    def __post_init__(self) -> None:
        for dtype in ("float32", "bfloat16"):
            value = self.peak_tflops.get(dtype)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InputError(f"device.peak_tflops.{dtype} is {value}: a number above 0 is needed")
        share = self.utilisation
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InputError(f"device.utilisation is {share}: a share of the peak is needed, above 0 and at most 1")
        memory = self.memory_gib
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0):
            raise InputError(f"device.memory_gib is {memory}: a number above 0 or null is needed")

    def seconds(self, flops: float, dtype: str) -> float:
        """Return how long these operations take at the assumed utilisation."""
        return flops / (self.peak_tflops[dtype] * 1e12 * self.utilisation)
