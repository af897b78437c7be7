"""What practitioners do to the norm of a Textual Inversion vector after each optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.backbones.base import EncoderSpec
from dti_repro.config.values import Magnitude


class NormControl(ABC):
    """A function of the vectors of one concept and text encoder."""

    @abstractmethod
    def __call__(self, vectors: Tensor, initializer: Tensor, encoder: EncoderSpec, lr: float) -> Tensor:
        """Return the vectors (vectors, dim) as they are kept. initializer: the rows (vectors, dim) they started at. lr:
        the learning rate of the step."""


class KeepNorm(NormControl):
    """Every vector is set to a norm after each step. magnitude: as for DTI, or `initializer` for the norm of the row
    that the vector started at.

    `mean` is the control of DTI's claim: the norm is fixed as in DTI, and AdamW steps in all directions. `median` is
    what OneTrainer does, `initializer` what the code of DCO does (Lee et al. 2024).
    """

    def __init__(self, magnitude: Magnitude | Literal["initializer"]) -> None:
        self.magnitude = magnitude

    def __call__(self, vectors: Tensor, initializer: Tensor, encoder: EncoderSpec, lr: float) -> Tensor:
        if self.magnitude == "initializer":
            return normalize(vectors, dim=-1) * initializer.norm(dim=-1, keepdim=True)
        return normalize(vectors, dim=-1) * encoder.norm(self.magnitude)


class PullToNorm(NormControl):
    """Every norm moves by the share min(1, strength x lr) towards `norm` after each step (github: cloneofsimo/lora,
    with .4 and 100)."""

    def __init__(self, norm: PositiveFloat, strength: NonNegativeFloat) -> None:
        self.norm = norm
        self.strength = strength

    def __call__(self, vectors: Tensor, initializer: Tensor, encoder: EncoderSpec, lr: float) -> Tensor:
        norms = vectors.norm(dim=-1, keepdim=True)
        pulled = norms + min(1.0, self.strength * lr) * (self.norm - norms)
        return normalize(vectors, dim=-1) * pulled


class MatchSpread(NormControl):
    """All numbers of a concept's vectors are scaled by (s / their standard deviation)^exponent after each step, where s
    is that of the vocabulary's numbers (diffusers' advanced DreamBooth script, with exponent .1)."""

    def __init__(self, exponent: PositiveFloat) -> None:
        self.exponent = exponent

    def __call__(self, vectors: Tensor, initializer: Tensor, encoder: EncoderSpec, lr: float) -> Tensor:
        return vectors * (encoder.std / vectors.std()) ** self.exponent
