"""The norm of a vector: a statistic of the vocabulary, or a number."""

from __future__ import annotations

import math

from dti_repro.backbones.base import EncoderSpec
from dti_repro.errors import InputError

STATISTICS = ("mean", "min", "max", "median")


def check_magnitude(magnitude: str | float) -> str | float:
    """Return `magnitude`. InputError if it is neither a statistic nor a number above 0."""
    if magnitude in STATISTICS:
        return magnitude
    if isinstance(magnitude, bool) or not isinstance(magnitude, (int, float)):
        raise InputError(f"method.magnitude '{magnitude}' is neither {', '.join(STATISTICS)} nor a number")
    if not (math.isfinite(magnitude) and magnitude > 0):
        raise InputError(f"method.magnitude is {magnitude}: a finite number above 0 is needed")
    return float(magnitude)


def magnitude_for(magnitude: str | float, encoder: EncoderSpec) -> float:
    """Return the norm of vectors for this encoder."""
    return encoder.norms[magnitude] if isinstance(magnitude, str) else magnitude
