"""The norm that a vector is given: a statistic of the vocabulary, or a number."""

from __future__ import annotations

from dti_repro.backbones.base import EncoderSpec
from dti_repro.config.values import Magnitude


def magnitude_for(magnitude: Magnitude, encoder: EncoderSpec) -> float:
    """The norm for vectors of this encoder."""
    return encoder.norms[magnitude] if isinstance(magnitude, str) else float(magnitude)
