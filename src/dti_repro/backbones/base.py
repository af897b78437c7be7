"""What a frozen text-to-image model has to offer for a word to be learned on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

ROWS = 1 << 14  # of a vocabulary, looked at together

TokenVectors = dict[str, Tensor]
"""Text encoder -> (batch, layers, vectors, dim); layers is 1 unless a method is per cross-attention layer."""


@dataclass(frozen=True)
class EncoderSpec:
    """One text encoder: its width and statistics of its vocabulary. All-zero rows belong to no word and are
    skipped."""

    dim: int
    norms: Mapping[str, float]  # mean, min, max, median of the rows' norms
    mean_row: Tensor  # (dim,)

    @classmethod
    def of(cls, table: Tensor) -> EncoderSpec:
        """Statistics of an embedding table (vocabulary, dim), computed in float64, by parts: of a vocabulary of
        256,000 words as a whole that takes 17 GB. A table on the meta device has none."""
        if table.is_meta:
            return cls(table.shape[1], {}, table[0])
        norms, total = [], torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
        for part in table.detach().split(ROWS):
            rows = part.double()
            norms.append(rows.norm(dim=-1))
            total += rows.sum(dim=0)
        norms = torch.cat(norms)
        norms = norms[norms > 0]
        statistics = {
            "mean": norms.mean().item(),
            "min": norms.min().item(),
            "max": norms.max().item(),
            "median": norms.quantile(0.5).item() if len(norms) < 1 << 24 else norms.median().item(),
        }
        return cls(table.shape[1], statistics, (total / len(norms)).float())


@dataclass(frozen=True)
class BackboneSpec:
    """What methods may know about a backbone."""

    name: str
    encoders: Mapping[str, EncoderSpec]
    cross_attention_layers: int
    resolution: int  # pixels of a square training image
    timesteps: int  # diffusion steps of training: t is in [0, timesteps)


@dataclass(frozen=True)
class InitializerEmbedding:
    """What the backbone knows of one concept's initializer, per text encoder; a method starts from it."""

    concept: str
    seed: int
    rows: Mapping[str, Tensor]  # (vectors, dim) vocabulary rows of its tokens
    states: Mapping[str, Tensor]  # (vectors, dim) the encoder's last hidden states at its tokens

    @property
    def positions(self) -> int:
        """How many vectors a prompt reads for the placeholder: as many as the initializer has tokens."""
        return max(len(rows) for rows in self.rows.values())


@dataclass(frozen=True)
class Tokens:
    """Prompts as ids, per text encoder (batch, length); `positions` says where which learned vector goes: at a
    position s >= 0 of prompt b the encoder reads vectors[b, layer, s] instead of the table, elsewhere positions are
    -1."""

    ids: Mapping[str, Tensor] = field(default_factory=dict)
    positions: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, index: Sequence[int] | Tensor) -> Tokens:
        return Tokens({k: v[index] for k, v in self.ids.items()}, {k: v[index] for k, v in self.positions.items()})

    def to(self, device: torch.device) -> Tokens:
        return Tokens(
            {k: v.to(device) for k, v in self.ids.items()}, {k: v.to(device) for k, v in self.positions.items()}
        )

    @staticmethod
    def concat(parts: Sequence[Tokens]) -> Tokens:
        return Tokens(
            {k: torch.cat([p.ids[k] for p in parts]) for k in parts[0].ids},
            {k: torch.cat([p.positions[k] for p in parts]) for k in parts[0].positions},
        )


@dataclass(frozen=True)
class Asked:
    """Prompts to be drawn with the same vectors; how many vectors each placeholder has."""

    prompts: Sequence[str]
    negative_prompt: str
    placeholders: Mapping[str, int]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts as the denoiser takes them."""

    hidden: Tensor  # (batch, length, dim)
    pooled: Tensor | None = None  # (batch, dim) of models that take a vector of the whole prompt besides
    mask: Tensor | None = None  # (batch, length) 1 where the denoiser may look, of models that are told


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's posterior of each image, in the denoiser's scale: images are encoded once, sampling stays per
    step."""

    mean: Tensor  # (images, channels, height, width); a video model's has its one frame before the height
    std: Tensor

    def sample(self, index: Tensor, noise: Tensor) -> Tensor:
        """mean + std * noise of the images named by index (batch,)."""
        return self.mean[index] + self.std[index] * noise


class Backbone(nn.Module, ABC):
    """Frozen: nothing in it requires or receives a gradient; gradients pass through to the learned
    vectors."""

    spec: BackboneSpec
    folder: Path  # of the checkpoint
    denoiser: nn.Module  # which adapters are put on

    DENOISER: ClassVar[str]
    """Its folder in the checkpoint, and its name in diffusers' pipeline."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its weights are."""

    @abstractmethod
    def start(self, concept: str, initializer: str, seed: int) -> InitializerEmbedding:
        """Rows and contextual states of the initializer's tokens. InputError for a word it does not know."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int]) -> Tokens:
        """Prompts that contain placeholders ("a photo of a <dog>") -> Tokens on the CPU.

        `placeholders` says how many vectors each one has. Slots number the vectors of all placeholders in the
        mapping's order: with {"<dog>": 2, "<mug>": 1} the mug reads position 2. InputError if a prompt is so long
        that a placeholder is cut off.
        """

    @abstractmethod
    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        """Tokens with the learned vectors (batch, layers, vectors, dim) in their positions. vectors=None: no
        positions."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        """pixels (images, 3, height, width) in [-1, 1]."""

    @abstractmethod
    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Mean squared error of what the model predicts (eps, v or flow), float32, one value per sample:
        (batch,)."""

    @classmethod
    @abstractmethod
    def check_drawing(
        cls,
        folder: Path,
        *,
        steps: int,
        sampler: str,
        sampler_options: Mapping[str, Any],
        height: int | None,
        width: int | None,
    ) -> None:
        """InputError for what `generate` could not draw with the checkpoint in this folder; reads no weights."""

    @classmethod
    @abstractmethod
    def lost_words(cls, folder: Path, asked: Sequence[Asked], **settings: Any) -> dict[str, str]:
        """Prompt -> the words at its end that the checkpoint in this folder would not read, as the context has no room
        for them; without the prompts that fit. Reads no weights. settings: of the constructor.

        InputError for a prompt that loses a placeholder, or has a word <name> that is none of the placeholders.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Mapping[str, Tensor]],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
        sampler: str = "default",
        sampler_options: Mapping[str, Any] = MappingProxyType({}),
        height: int | None = None,
        width: int | None = None,
    ) -> list[Image.Image]:
        """One image per prompt and seed, independent of what else is in the batch.

        prompts and negative_prompt may hold placeholders; vectors maps each placeholder to {text encoder: (vectors,
        dim)}. InputError for an image that holds numbers that are not finite. sampler is
        `default` (the checkpoint's own) or the name of a diffusers scheduler class; sampler_options overrides
        keys of its config.
        """
