"""No adapter."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.backbones.base import Backbone
from dti_repro.losses.objectives import Reference


class NoAdapter(Adapter):
    """The vectors are all that is learned, and their loss is what is minimised."""

    def attached(self, backbone: Backbone, random: Generator) -> AbstractContextManager[None]:
        return nullcontext()

    def objective(self, loss: Tensor, reference: Reference) -> Tensor:
        return loss

    def optimizers(self) -> list[Optimizer]:
        return []

    def gradient_norm(self) -> float:
        return 0.0

    def beside(self, tokens: nn.Module) -> nn.Module:
        return tokens

    def save(self, embedding: Path) -> dict[str, str]:
        return {}
