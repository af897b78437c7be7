"""CrossInit (Pang et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from dti_repro.losses.priors import Prior
from dti_repro.methods.textual_inversion import TextualInversion


class CrossInit(TextualInversion):
    """A free vector. It starts at the text encoder's last hidden state at the initializer's position, so at that
    state's norm, and the prior draws it back there."""

    def __init__(self, prior: Prior) -> None:
        super().__init__("contextual", norm_control=None)
        self._prior = prior

    def prior_of(self, concept: int) -> Tensor:
        states = self.initializers[concept].states
        return sum(self._prior(v, states[name]) for name, v in self.concepts[concept].items())
