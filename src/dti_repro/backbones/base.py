"""What a frozen text-to-image model is given and gives, in the terms of methods and trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dti_repro.config.values import Magnitude

CHUNK = 1 << 14  # rows of a vocabulary that are converted to float64 at once
ZERO = -2
"""The position at which a text encoder reads a vector of zeros."""

TokenVectors = dict[str, Tensor]
"""Text encoder -> (batch, layers, vectors, dim). layers is 1, or the number of cross-attention layers of the denoiser
where each layer reads vectors of its own. The last dimension is 2 dim where each vector has a bypass (Alaluf et al.
2023) as its second half: the encoder's last state at the vector's position grows by the bypass times the state's norm,
for the values of cross-attention only."""

Dependence = Literal["layer", "timestep"]
"""What a method's vectors may depend on besides the concept."""
Support = Literal["layer", "timestep", "attention"]
"""What a method may ask of a backbone: vectors for each layer or timestep, and attention maps."""


def row_norms(table: Tensor) -> Tensor:
    """Return the norms (vocabulary,) of an embedding table's rows in float64, computed in chunks."""
    return torch.cat([rows.double().norm(dim=-1) for rows in table.detach().split(CHUNK)])


@dataclass(frozen=True)
class EncoderSpec:
    """The width of a text encoder, and statistics of its vocabulary without the all-zero rows, which belong to no
    word."""

    dim: int
    norms: Mapping[str, float]  # mean, min, max, median of the rows' norms
    std: float  # of all numbers of the table
    mean_row: Tensor  # (dim,)
    end: int | None = None  # the id of the token that ends a prompt

    @classmethod
    def of(cls, table: Tensor, end: int | None = None) -> EncoderSpec:
        """Compute the statistics of an embedding table (vocabulary, dim) in float64, in chunks: a vocabulary of 256,000
        words as a whole takes 17 GB. A table on the meta device has no statistics."""
        if table.is_meta:
            return cls(table.shape[1], {}, 0.0, table[0], end)
        norms = row_norms(table)
        norms = norms[norms > 0]
        sums = (rows.double().sum(dim=0) for rows in table.detach().split(CHUNK))
        statistics = {"mean": norms.mean(), "min": norms.min(), "max": norms.max(), "median": norms.quantile(0.5)}
        numbers = {name: value.item() for name, value in statistics.items()}
        mean_row = sum(sums) / len(norms)
        std = (norms.square().mean() / table.shape[1] - mean_row.mean().square()).sqrt().item()
        return cls(table.shape[1], numbers, std, mean_row.float(), end)

    def norm(self, magnitude: Magnitude) -> float:
        """Return the norm that a configuration names: a statistic of the vocabulary's norms, or a number."""
        return self.norms[magnitude] if isinstance(magnitude, str) else float(magnitude)


@dataclass(frozen=True)
class BackboneSpec:
    """What methods may know about a backbone."""

    name: str
    encoders: Mapping[str, EncoderSpec]
    resolution: int  # pixels of a square training image
    timesteps: int  # diffusion steps of training: t is in [0, timesteps)
    layers: int = 0  # cross-attention layers that can read vectors of their own


@dataclass(frozen=True)
class InitializerEmbedding:
    """The vectors of one concept's initializer, per text encoder; a method starts from them."""

    concept: str
    seed: int
    rows: Mapping[str, Tensor]  # (vectors, dim) vocabulary rows of its tokens
    states: Mapping[str, Tensor]  # (vectors, dim) the encoder's last hidden states at its tokens
    start: Mapping[str, Tensor] | None = None  # (vectors, dim) learned vectors to go on from
    distinct: int | None = None  # vectors before they were repeated; None: they were not

    @property
    def positions(self) -> int:
        """The number of vectors that a placeholder stands for."""
        return max(len(rows) for rows in self.rows.values())


@dataclass(frozen=True)
class Tokens:
    """Prompts as ids, per text encoder (batch, length). `positions` says where learned vectors are: at a position
    s >= 0 of prompt b the encoder reads vectors[b, layer, s] instead of the table, at ZERO zeros; elsewhere positions
    are -1."""

    ids: Mapping[str, Tensor]
    positions: Mapping[str, Tensor]

    def __getitem__(self, index: Sequence[int] | Tensor) -> Tokens:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Tokens:
        return self._map(lambda tensor: tensor.to(device))

    def repeat(self, times: int) -> Tokens:
        """Return each prompt so many times in a row."""
        return self._map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def with_zeros(self, counts: Tensor) -> Tokens:
        """Return prompt b with counts[b] zero vectors after its first token, and as many tokens fewer at its end."""
        ids, positions = {}, {}
        for name, row in self.ids.items():
            place = torch.arange(row.shape[1], device=row.device)
            source = (place - counts[:, None]).clamp(min=0)
            zeros = (place > 0) & (place <= counts[:, None])
            ids[name] = row.gather(1, source)
            positions[name] = self.positions[name].gather(1, source).masked_fill(zeros, ZERO)
        return Tokens(ids, positions)

    @property
    def have_vectors(self) -> bool:
        """Whether a learned vector is in any prompt."""
        return any(bool((positions >= 0).any()) for positions in self.positions.values())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        return Tokens(
            {name: change(ids) for name, ids in self.ids.items()},
            {name: change(positions) for name, positions in self.positions.items()},
        )

    @staticmethod
    def concat(parts: Sequence[Tokens]) -> Tokens:
        return Tokens(
            {name: torch.cat([part.ids[name] for part in parts]) for name in parts[0].ids},
            {name: torch.cat([part.positions[name] for part in parts]) for name in parts[0].positions},
        )


@dataclass(frozen=True)
class LearnedWord:
    """What a placeholder stands for in generation.

    at: t (1,), the sampler's timestep, -> the vectors, a batch of one. depends_on: as of the method.
    """

    count: int  # vectors
    at: Callable[[Tensor], TokenVectors]
    depends_on: frozenset[Dependence] = frozenset()

    @classmethod
    def of(cls, word: LearnedWord | Mapping[str, Tensor]) -> LearnedWord:
        """Return the word, given as one or as text encoder -> (vectors, dim), the same at every layer and timestep."""
        if isinstance(word, LearnedWord):
            return word
        vectors = {name: rows[None, None] for name, rows in word.items()}
        return cls(len(next(iter(word.values()))), lambda t: vectors)


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that are generated with the same learned vectors."""

    prompts: Sequence[str]
    negative_prompt: str
    placeholders: Mapping[str, int]  # placeholder -> number of its vectors


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts as the denoiser takes them."""

    hidden: Tensor  # (batch, length, dim); the layers' one after the other where they differ
    pooled: Tensor | None = None  # (batch, dim) a vector of the whole prompt, for models that take one
    mask: Tensor | None = None  # (batch, length) 1 where the denoiser may look, for models that take a mask
    sizes: Tensor | None = None  # (batch, 6) of each training image, as in data.views.View, for models that are told

    def __getitem__(self, index: Sequence[int]) -> Conditioning:
        """Return some of the prompts, or one of them several times."""
        parts = (self.hidden, self.pooled, self.mask)
        return Conditioning(*(None if part is None else part[index] for part in parts))

    def lengthened(self, length: int) -> Conditioning:
        """Return the conditioning repeated to this length, a multiple of its own: the same for all layers."""
        return replace(self, hidden=self.hidden.repeat(1, length // self.hidden.shape[1], 1))


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's posterior of each image, in the denoiser's scale. Images are encoded once and sampled in each step."""

    mean: Tensor  # (images, channels, height, width); a video model's has its one frame before the height
    std: Tensor

    def sample(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return mean + std * noise of the images that index (batch,) selects."""
        return self.mean[index] + self.std[index] * noise
