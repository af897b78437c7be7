"""What the evaluators in timm's format share: a network, its scenes, and how it is fed, saved and read.

A network is of a registered architecture with plain arguments, and saved for ``local-dir:``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from safetensors.torch import load_file
from timm.models._hub import save_config_for_hf
from torch import Tensor

from dti_repro.artifacts.files import atomic_write
from dti_repro.toybox.drawing import SIZE
from dti_repro.toybox.evaluators.data import MEAN, STD, EvaluatorScenes, normalise, save_halves
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
        preprocessing = {
            "input_size": (3, SIZE, SIZE), "mean": (MEAN,) * 3, "std": (STD,) * 3,
            "crop_pct": 1.0, "interpolation": "bicubic", "num_classes": outputs, "tag": "toybox", "license": "mit",
            # What timm says of its own weights does not hold for ours.
            "pool_size": None, "test_input_size": None, "test_crop_pct": None, "origin_url": None, "paper_ids": None,
        }  # fmt: skip
        torch.manual_seed(seed)
        self.model = timm.create_model(
            architecture, pretrained=False, num_classes=outputs, pretrained_cfg_overlay=preprocessing, **arguments
        ).to(memory_format=torch.channels_last)

    def save(self, folder: Path) -> None:
        """``config.json`` and fp16 ``model.safetensors``: ``timm.create_model("local-dir:<it>", pretrained=True)``."""
        save_halves(self.model, folder / self.NAME / "model.safetensors")
        with atomic_write(folder / self.NAME / "config.json") as temporary:
            save_config_for_hf(self.model, temporary, model_args=self.arguments)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(folder / self.NAME / "model.safetensors"))

    def _outputs(self, pixels: Tensor) -> Tensor:
        """Return the network's outputs for pictures in [0, 1], (batch, 3, 48, 48)."""
        return self.model(normalise(pixels).to(self.device, memory_format=torch.channels_last)).float()
