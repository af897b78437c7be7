"""ProSpect's token vectors (Zhang et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, Dependence, InitializerEmbedding, TokenVectors
from dti_repro.config.values import Init
from dti_repro.methods.base import TokenMethod, stacked
from dti_repro.methods.initializers import initial_vectors


class ProSpect(TokenMethod):
    """A free vector for each of `stages` equal parts of the timesteps, and each of the initializer's: (stages, vectors,
    dim). The denoiser reads those of the part in which its timestep lies."""

    depends_on: ClassVar[frozenset[Dependence]] = frozenset({"timestep"})

    def __init__(self, init: Init, stages: PositiveInt) -> None:
        super().__init__()
        self.init = init
        self.stages = stages

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        rows = {n: initial_vectors(self.init, initializer, n, encoder) for n, encoder in spec.encoders.items()}
        return nn.ParameterDict({name: row.repeat(self.stages, 1, 1) for name, row in rows.items()})

    def forward(self, concept: Tensor, t: Tensor | None = None, chance: Tensor | None = None) -> TokenVectors:
        stage = (t.float() * self.stages / self.spec.timesteps).long().clamp(max=self.stages - 1)
        out = {}
        for encoder in self.initializers[0].rows:
            tables = [self.concepts[c][encoder] for c in concept.tolist()]
            out[encoder] = stacked([table[s] for table, s in zip(tables, stage, strict=True)])[:, None]
        return out
