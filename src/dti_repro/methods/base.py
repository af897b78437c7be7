"""What a method is: a function from (concept, timestep) to token vectors, whose parameters are learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding, TokenVectors


class TokenMethod(nn.Module, ABC):
    """Owns all that is learned of the packed concepts. `concepts[c]` holds the parameters of concept c and nothing
    else, so that each concept has its own checkpoint and the concepts of a pack may be at different steps."""

    on_sphere: ClassVar[bool]
    """Whether its parameters are unit rows, which need a SphereOptimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.concepts = nn.ModuleList()

    @abstractmethod
    def initialise(self, initializers: Sequence[InitializerEmbedding], spec: BackboneSpec) -> None:
        """Make the parameters (float32) of the packed concepts, one initializer each."""

    @abstractmethod
    def forward(self, concept: Tensor, t: Tensor | None = None) -> TokenVectors:
        """Return text encoder -> (batch, layers, vectors, dim). concept: (batch,) indices into the pack, on the CPU;
        t: (batch,) timesteps. Concepts with fewer vectors than others of the pack are padded with rows that no position
        reads."""

    @abstractmethod
    def prior(self) -> Tensor:
        """Return the negative log prior of each packed concept: (concepts,)."""

    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """Return groups for the configured optimizer. A group with an `lr` of its own holds no vectors: it is for plain
        Adam."""

    @abstractmethod
    def export(self, concept: int) -> dict[str, Tensor]:
        """Return the vectors of a concept, as they are saved: text encoder -> (vectors, dim) float32."""

    @abstractmethod
    def initializer(self, concept: int) -> dict[str, Tensor]:
        """Return the initializer's vocabulary rows, from which angles are measured: text encoder -> (vectors, dim)."""


class SharedVectors(TokenMethod, ABC):
    """A method whose vectors depend on neither the timestep nor the layer. Subclasses say what is learned of them."""

    def __init__(self) -> None:
        super().__init__()
        self._initializers: list[InitializerEmbedding] = []

    @abstractmethod
    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        """Return a module with the parameters of one concept."""

    @abstractmethod
    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        """Return text encoder -> (vectors, dim), differentiable."""

    @abstractmethod
    def prior_of(self, concept: int) -> Tensor:
        """Return the negative log prior of one concept: scalar."""

    def initialise(self, initializers: Sequence[InitializerEmbedding], spec: BackboneSpec) -> None:
        self._initializers = list(initializers)
        self.concepts = nn.ModuleList(self.parameters_of(initializer, spec) for initializer in initializers)

    def forward(self, concept: Tensor, t: Tensor | None = None) -> TokenVectors:
        used = sorted(set(concept.tolist()))
        learned = [self.vectors_of(c) for c in used]
        index = torch.tensor([used.index(c) for c in concept.tolist()], device=next(self.parameters()).device)
        out = {}
        for encoder in learned[0]:
            most = max(len(vectors[encoder]) for vectors in learned)
            padded = [nn.functional.pad(v[encoder], (0, 0, 0, most - len(v[encoder]))) for v in learned]
            out[encoder] = torch.stack(padded).index_select(0, index)[:, None]
        return out

    def prior(self) -> Tensor:
        return torch.stack([self.prior_of(c) for c in range(len(self.concepts))])

    def export(self, concept: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: vectors.detach().float() for name, vectors in self.vectors_of(concept).items()}

    def initializer(self, concept: int) -> dict[str, Tensor]:
        return dict(self._initializers[concept].rows)


class DerivedMethod(ABC):
    """A method without a training: a function of the vectors that another method, its `source`, has learned."""

    source: TokenMethod

    @abstractmethod
    def derive(self, vectors: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
        """Return the derived vectors of one concept: text encoder -> (vectors, dim) float32."""
