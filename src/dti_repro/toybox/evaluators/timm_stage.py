"""What the evaluators in timm's format share: a network, its scenes, and how it is fed, saved and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dti_repro.toybox.evaluators import timm_format
from dti_repro.toybox.evaluators.data import EvaluatorScenes, normalise
from dti_repro.toybox.training import Stage


class TimmStage(Stage):
    """Subclasses name their folder and their outputs (0: pooled features) and say what the loss is."""

    NAME: ClassVar[str]

    def __init__(
        self,
        data: EvaluatorScenes,
        held_out: EvaluatorScenes,
        *,
        architecture: str,
        arguments: dict[str, Any],
        outputs: int,
        batch: int,
        seed: int = 0,
    ) -> None:
        self.data, self.held_out, self.batch, self.seed, self.arguments = data, held_out, batch, seed, arguments
        torch.manual_seed(seed)
        self.model = timm_format.build(architecture, arguments, outputs)

    def save(self, folder: Path) -> None:
        timm_format.save(self.model, self.arguments, folder / self.NAME)

    def load(self, folder: Path) -> None:
        timm_format.load(self.model, folder / self.NAME)

    def _outputs(self, pixels: Tensor) -> Tensor:
        """Return the network's outputs for pictures in [0, 1], (batch, 3, 48, 48)."""
        return self.model(normalise(pixels).to(self.device, memory_format=torch.channels_last)).float()
