"""CrossInit (Pang et al. 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding
from dti_repro.losses.priors import Prior
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_vectors


class CrossInit(SharedVectors):
    """A free vector. It starts at the text encoder's last hidden state at the initializer's position, so at that
    state's norm, and the prior draws it back there."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self._prior = prior

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        return nn.ParameterDict(
            {name: initial_vectors("contextual", initializer, name, encoder) for name, encoder in spec.encoders.items()}
        )

    def prior_of(self, concept: int) -> Tensor:
        states = self.initializers[concept].states
        return sum(self._prior(v, states[name]) for name, v in self.concepts[concept].items())
