"""Textual Inversion (Gal et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_rows


class TI(SharedVectors):
    """A free vector for each token of the class word."""

    on_sphere: ClassVar[bool] = False

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.init = init

    def parameters_of(self, start: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        return nn.ParameterDict(
            {name: initial_rows(self.init, start, name, encoder) for name, encoder in spec.encoders.items()}
        )

    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        return dict(self.concepts[concept].items())

    def prior_of(self, concept: int) -> Tensor:
        return torch.zeros((), device=next(self.parameters()).device)

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]
