"""TI-rescaled, the paper's control: a Textual Inversion vector with the vocabulary's norm, set after its training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.backbones.base import BackboneSpec
from dti_repro.config.values import Magnitude
from dti_repro.methods.base import DerivedMethod, TokenMethod


class TIRescaled(DerivedMethod):
    """m e / |e| for every vector e that the source has learned. magnitude: m, as for DTI."""

    def __init__(self, magnitude: Magnitude, source: TokenMethod) -> None:
        self.magnitude = magnitude
        self.source = source

    def derive(self, vectors: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
        return {n: normalize(v, dim=-1) * spec.encoders[n].norm(self.magnitude) for n, v in vectors.items()}
