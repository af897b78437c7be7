"""What a method is: a function from (concept, timestep, layer) to token vectors, whose parameters are learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dti_repro.backbones.base import (
    BackboneSpec,
    Conditioning,
    Dependence,
    InitializerEmbedding,
    Support,
    Tokens,
    TokenVectors,
)
from dti_repro.errors import InputError


@dataclass(frozen=True)
class StepContext:
    """What a regularizer may look at, in one part of a step. Its samples are those of `concepts`, as many of each."""

    concepts: Sequence[int]  # of the pack
    tokens: Tokens  # the prompts, (samples, length)
    conditioning: Conditioning  # of the prompts
    attention: Sequence[Tensor]  # (samples, heads, queries, length), for a method that `records_attention`
    encode_class: Callable[[], Conditioning]  # the prompts with the class word; no gradient
    encode_extra: Callable[[bool], tuple[Tokens, Conditioning]]
    """One of the method's `extra_prompts` for each sample, with the word or, if true, with the class word and without a
    gradient."""
    attend: Callable[[Conditioning], Sequence[Tensor]]
    """The attention maps of the samples' noisy latents with other prompts. Costs another pass through the denoiser."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (samples,) over each concept's samples: (concepts,)."""
        return values.view(len(self.concepts), -1).mean(dim=1)


class TokenMethod(nn.Module, ABC):
    """Owns all that is learned of the packed concepts. `concepts[c]` holds the parameters of concept c and nothing
    else, so that each concept has its own checkpoint and the concepts of a pack may be at different steps."""

    on_sphere: ClassVar[bool] = False
    """Whether its parameters are unit rows, which need a SphereOptimizer."""
    depends_on: ClassVar[frozenset[Dependence]] = frozenset()
    """What its vectors depend on besides the concept."""
    needs: ClassVar[frozenset[Support]] = frozenset()
    """What it asks of a backbone besides vectors that depend on the layer or the timestep."""
    records_attention: ClassVar[bool] = False
    """Whether its regularizer reads the attention maps of the training's own prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.concepts = nn.ModuleList()
        self.initializers: list[InitializerEmbedding] = []
        self.spec: BackboneSpec | None = None

    @abstractmethod
    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        """Return a module with the parameters (float32) of one concept. Its state_dict is what is saved."""

    @abstractmethod
    def forward(self, concept: Tensor, t: Tensor | None = None, chance: Tensor | None = None) -> TokenVectors:
        """Return text encoder -> (batch, layers, vectors, dim).

        concept: (batch,) indices into the pack, on the CPU. t: (batch,) timesteps. chance: (batch,) uniform numbers in
        [0, 1), in training only: all that a step may draw at random. Concepts with fewer vectors than others of the
        pack are padded with rows that no position reads.
        """

    def initialise(self, initializers: Sequence[InitializerEmbedding], spec: BackboneSpec) -> None:
        """Make the parameters of the packed concepts, one initializer each."""
        self.initializers = list(initializers)
        self.spec = spec
        self.concepts = nn.ModuleList(self.parameters_of(initializer, spec) for initializer in initializers)

    def state(self, concept: int) -> dict[str, Tensor]:
        """Return what is learned of a concept, from which `load` makes the same vectors."""
        return {name: tensor.detach().float() for name, tensor in self.concepts[concept].state_dict().items()}

    def load(self, state: Mapping[str, Tensor], vectors: int, spec: BackboneSpec) -> None:
        """Make a pack of one concept of so many vectors from its state. InputError for one that does not fit."""
        blank = {name: torch.zeros(vectors, encoder.dim) for name, encoder in spec.encoders.items()}
        self.initialise([InitializerEmbedding("", 0, blank, blank, blank)], spec)
        try:
            self.concepts[0].load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the state does not fit the method on {spec.name}: {reason}") from error

    def check_templates(self, templates: Sequence[str]) -> None:
        """Raise InputError for templates that the method cannot be trained with."""

    def check_extra_prompts(self, tokens: Tokens, class_tokens: Tokens) -> None:
        """Raise InputError for extra prompts that the regularizer cannot read. They are given as tokens, with the word
        and with the class word."""

    def extra_prompts(self, live: bool) -> Sequence[str]:
        """Return prompts with {} for the word, of which the regularizer sees one for each sample. live: of a person or
        an animal."""
        return ()

    def prior_of(self, concept: int) -> Tensor:
        """Return the negative log prior of one concept: scalar."""
        return torch.zeros((), device=next(self.parameters()).device)

    def regularizer(self, context: StepContext) -> Tensor | None:
        """Return what is added to the loss of each of the context's concepts, a mean over its samples: (concepts,)."""
        return None

    def after_step(self, concepts: Sequence[int], lr: float) -> None:
        """Change the parameters of these concepts, which the optimizer has just stepped with this learning rate."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Return groups for the configured optimizer. A group with an `lr` of its own holds no vectors: it is for plain
        Adam."""
        return [{"params": list(self.parameters())}]

    def vectors(self, concept: int) -> dict[str, Tensor]:
        """Return the vectors of a concept: text encoder -> (..., vectors, dim) float32, without a bypass; those of
        timestep 0 where they depend on it."""
        t = torch.zeros(1, dtype=torch.long, device=next(self.parameters()).device)
        with torch.no_grad():
            rows = self(torch.tensor([concept]), t)
        dims = {name: row.shape[-1] for name, row in self.initializers[concept].rows.items()}
        return {name: row[..., : dims[name]].float() for name, row in rows.items()}


class SharedVectors(TokenMethod, ABC):
    """A method whose parameters are vectors that do not depend on the timestep, and on the layer only where
    `depends_on` says so."""

    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        """Return text encoder -> (vectors, dim), or (layers, vectors, dim) where they depend on the layer,
        differentiable: by default the parameters themselves."""
        return dict(self.concepts[concept].items())

    def forward(self, concept: Tensor, t: Tensor | None = None, chance: Tensor | None = None) -> TokenVectors:
        used = sorted(set(concept.tolist()))
        learned = [self.vectors_of(c) for c in used]
        index = torch.tensor([used.index(c) for c in concept.tolist()], device=next(self.parameters()).device)
        out = {}
        for encoder in learned[0]:
            rows = stacked([vectors[encoder] for vectors in learned]).index_select(0, index)
            out[encoder] = rows if rows.ndim == 4 else rows[:, None]
        return out

    def vectors(self, concept: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: vectors.detach().float() for name, vectors in self.vectors_of(concept).items()}


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows (..., vectors, dim) of several concepts, those with fewer vectors than others padded with zeros."""
    most = max(row.shape[-2] for row in rows)
    return torch.stack([nn.functional.pad(row, (0, 0, 0, most - row.shape[-2])) for row in rows])


class DerivedMethod(ABC):
    """A method without a training: a function of the vectors that another method, its `source`, has learned."""

    source: TokenMethod
    depends_on: ClassVar[frozenset[Dependence]] = frozenset()

    @abstractmethod
    def derive(self, vectors: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
        """Return the derived vectors of one concept: text encoder -> (vectors, dim) float32."""
