"""What a method is: a function from (concept, timestep) to token vectors, whose parameters are learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding, TokenVectors


class TokenMethod(nn.Module, ABC):
    """Owns everything that is learned, concept by concept: `concepts[c]` holds all of concept c's parameters
    and nothing else, so that checkpoints and optimizer states are per concept and a pack may hold concepts at
    different steps."""

    on_sphere: ClassVar[bool]
    """Whether its vectors are unit rows, which only a sphere's optimizer may step."""

    def __init__(self) -> None:
        super().__init__()
        self.concepts = nn.ModuleList()

    @abstractmethod
    def initialise(self, starts: Sequence[InitializerEmbedding], spec: BackboneSpec) -> None:
        """Make the parameters of the packed concepts (float32)."""

    @abstractmethod
    def forward(self, concept: Tensor, t: Tensor | None = None) -> TokenVectors:
        """concept (batch,) indices into the pack (on the CPU), t (batch,) timesteps -> text encoder: (batch,
        layers, vectors, dim). Concepts with fewer vectors than the widest of the pack are padded with rows
        that no position reads."""

    @abstractmethod
    def prior(self) -> Tensor:
        """Negative log prior of each packed concept: (concepts,)."""

    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer. A group with its own `lr` (and `role`) is stepped by plain Adam instead of
        the configured optimizer: it holds no vectors."""

    @abstractmethod
    def export(self, concept: int) -> dict[str, Tensor]:
        """What is saved of a concept: text encoder -> (vectors, dim) float32."""

    @abstractmethod
    def initializer(self, concept: int) -> dict[str, Tensor]:
        """mu, that angles are measured from: text encoder -> (vectors, dim), the initializer's vocabulary
        rows."""


class SharedVectors(TokenMethod, ABC):
    """A method whose vectors do not depend on the timestep or the layer; subclasses say what is learned of
    them."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[InitializerEmbedding] = []

    @abstractmethod
    def parameters_of(self, start: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        """A module of the parameters of one concept."""

    @abstractmethod
    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        """Text encoder -> (vectors, dim), differentiable."""

    @abstractmethod
    def prior_of(self, concept: int) -> Tensor:
        """Negative log prior of one concept: scalar."""

    def initialise(self, starts: Sequence[InitializerEmbedding], spec: BackboneSpec) -> None:
        self._starts = list(starts)
        self.concepts = nn.ModuleList(self.parameters_of(start, spec) for start in starts)

    def forward(self, concept: Tensor, t: Tensor | None = None) -> TokenVectors:
        used = sorted(set(concept.tolist()))
        learned = [self.vectors_of(c) for c in used]
        device = next(self.parameters()).device
        place = torch.tensor([used.index(c) for c in concept.tolist()], device=device)
        out = {}
        for encoder in learned[0]:
            widest = max(len(vectors[encoder]) for vectors in learned)
            padded = [nn.functional.pad(v[encoder], (0, 0, 0, widest - len(v[encoder]))) for v in learned]
            out[encoder] = torch.stack(padded).index_select(0, place)[:, None]
        return out

    def prior(self) -> Tensor:
        return torch.stack([self.prior_of(c) for c in range(len(self.concepts))])

    def export(self, concept: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: vectors.detach().float() for name, vectors in self.vectors_of(concept).items()}

    def initializer(self, concept: int) -> dict[str, Tensor]:
        return dict(self._starts[concept].rows)


class DerivedMethod(ABC):
    """A method without a training: a function of another method's learned vectors. Its yaml names that one as
    `source`."""

    source: TokenMethod

    @abstractmethod
    def derive(self, vectors: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
        """Text encoder -> (vectors, dim) float32, of one concept."""
