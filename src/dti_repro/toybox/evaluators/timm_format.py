"""Networks in timm's format: built from a registered architecture and plain arguments, saved for ``local-dir:``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from dti_repro.artifacts.files import atomic_write
from dti_repro.toybox.drawing import SIZE
from dti_repro.toybox.evaluators.data import MEAN, STD


def build(architecture: str, arguments: dict[str, Any], outputs: int) -> nn.Module:
    """Return a network for 48 x 48 pictures in [-1, 1]; with ``outputs`` 0 it returns pooled features."""
    preprocessing = {
        "input_size": (3, SIZE, SIZE), "mean": (MEAN,) * 3, "std": (STD,) * 3,
        "crop_pct": 1.0, "interpolation": "bicubic", "num_classes": outputs, "tag": "toybox", "license": "mit",
        # What timm says of its own weights does not hold for ours.
        "pool_size": None, "test_input_size": None, "test_crop_pct": None, "origin_url": None, "paper_ids": None,
    }  # fmt: skip
    model = timm.create_model(
        architecture, pretrained=False, num_classes=outputs, pretrained_cfg_overlay=preprocessing, **arguments
    )
    return model.to(memory_format=torch.channels_last)


def save(model: nn.Module, arguments: dict[str, Any], folder: Path) -> None:
    """``config.json`` and fp16 ``model.safetensors``: ``timm.create_model("local-dir:<folder>", pretrained=True)``."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(halves, temporary, metadata={"format": "pt"})
    with atomic_write(folder / "config.json") as temporary:
        save_config_for_hf(model, temporary, model_args=arguments)


def load(model: nn.Module, folder: Path) -> None:
    model.load_state_dict(load_file(folder / "model.safetensors"))
