"""What may be trained beside the vectors of one concept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dti_repro.backbones.base import Backbone
from dti_repro.losses.objectives import Reference


class Adapter(ABC):
    """An adapter's weights are shared by all that the denoiser draws: with one, a pack is a single concept.

    Nothing of it can be used outside of `attached`.
    """

    @abstractmethod
    def attached(self, backbone: Backbone, random: Generator) -> AbstractContextManager[None]:
        """Within it the backbone's denoiser has the adapter, newly initialised from `random`'s seed; afterwards it is
        as it was. InputError if the adapter does not fit the denoiser."""

    @abstractmethod
    def objective(self, loss: Tensor, reference: Reference) -> Tensor:
        """What is minimised, (concepts,), given each concept's mean loss (concepts,)."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """Of the adapter's weights."""

    @abstractmethod
    def gradient_norm(self) -> float:
        """Of all of the adapter's weights together."""

    @abstractmethod
    def beside(self, tokens: nn.Module) -> nn.Module:
        """All that is learned of a concept, for checkpoints: the method's parameters and the adapter's."""

    @abstractmethod
    def save(self, embedding: Path) -> dict[str, str]:
        """Write the weights beside an embedding's place; what the embedding's header has to say of them."""
