"""What an adapter is; the base class is the one without weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dti_repro.backbones.backbone import Backbone
from dti_repro.losses.objectives import Reference


class Adapter:
    """Weights of the denoiser that are trained together with the vectors of one concept. All that the denoiser draws
    shares them: with an adapter, a pack is a single concept. Its methods work inside of `attached` only; here they are
    those of an adapter without weights, with which only the vectors are learned."""

    def attached(self, backbone: Backbone, random: Generator) -> AbstractContextManager[None]:
        """Put the adapter, initialised from `random`'s seed, on the backbone's denoiser; at the exit take it off.
        InputError if it does not fit the denoiser."""
        return nullcontext()

    def objective(self, loss: Tensor, reference: Reference) -> Tensor:
        """Return what is minimised, (concepts,), given each concept's mean loss (concepts,)."""
        return loss

    def optimizers(self) -> list[Optimizer]:
        """Return the optimizers of the adapter's weights."""
        return []

    def gradient_norm(self) -> float:
        """Return the norm of the gradient of all weights together."""
        return 0.0

    def with_weights(self, tokens: nn.Module) -> nn.Module:
        """Return all that is learned for a concept, for its checkpoint: the method's parameters and the weights."""
        return tokens

    def save(self, embedding: Path) -> dict[str, str]:
        """Write the weights next to the embedding's path. Return what the embedding's header says of them."""
        return {}
