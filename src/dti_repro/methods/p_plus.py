"""P+, or Extended Textual Inversion (Voynov et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from dti_repro.backbones.base import BackboneSpec, Dependence, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_vectors


class PPlus(SharedVectors):
    """A free vector for each cross-attention layer, and each of the initializer's: (layers, vectors, dim). Each layer
    reads the prompt that is encoded with its own vectors."""

    depends_on: ClassVar[frozenset[Dependence]] = frozenset({"layer"})

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.init = init

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        rows = {n: initial_vectors(self.init, initializer, n, encoder) for n, encoder in spec.encoders.items()}
        return nn.ParameterDict({name: row.repeat(spec.layers, 1, 1) for name, row in rows.items()})
