"""TI-rescaled, the paper's control: a TI vector whose norm is set back after its training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.backbones.base import BackboneSpec
from dti_repro.config.values import Magnitude
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.methods.magnitudes import magnitude_for


class TIRescaled(DerivedMethod):
    """m * e / |e| for every learned vector e of the source's run. magnitude: m, as for DTI."""

    def __init__(self, magnitude: Magnitude, source: TokenMethod) -> None:
        self.magnitude = magnitude
        self.source = source

    def derive(self, vectors: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
        return {n: normalize(v, dim=-1) * magnitude_for(self.magnitude, spec.encoders[n]) for n, v in vectors.items()}
