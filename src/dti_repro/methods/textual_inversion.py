"""Textual Inversion (Gal et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_vectors
from dti_repro.methods.norm_controls import NormControl


class TextualInversion(SharedVectors):
    """A free vector for each of the initializer's. norm_control: what is done to the vectors after each step."""

    def __init__(self, init: Init, norm_control: NormControl | None) -> None:
        super().__init__()
        self.init = init
        self._control = norm_control

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        return nn.ParameterDict(
            {name: initial_vectors(self.init, initializer, name, encoder) for name, encoder in spec.encoders.items()}
        )

    @torch.no_grad()
    def after_step(self, concepts: Sequence[int], lr: float) -> None:
        if self._control is None:
            return
        for c in concepts:
            for name, vectors in self.concepts[c].items():
                rows = self.initializers[c].rows[name]
                vectors.copy_(self._control(vectors, rows, self.spec.encoders[name], lr))
