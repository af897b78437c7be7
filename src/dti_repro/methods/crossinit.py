"""CrossInit (Pang et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding
from dti_repro.losses.priors import Prior
from dti_repro.methods.base import SharedVectors


class CrossInit(SharedVectors):
    """A free vector that starts at the text encoder's last hidden state at the initializer's position (so at
    the contextual norm) and is drawn back there by the prior."""

    on_sphere: ClassVar[bool] = False

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self._prior = prior

    def parameters_of(self, start: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        return nn.ParameterDict({name: start.states[name].detach().float().clone() for name in spec.encoders})

    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        return dict(self.concepts[concept].items())

    def prior_of(self, concept: int) -> Tensor:
        states = self._starts[concept].states
        return sum(self._prior(v, states[name]) for name, v in self.concepts[concept].items())

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]
