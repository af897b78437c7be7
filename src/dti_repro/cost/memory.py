"""Measure on a CPU the memory that a plan predicts: of the weights, of a training sample and of a picture."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.load import load_backbone

PROCESS = Path("/proc/self")
CLEAR = PROCESS / "clear_refs"
WORD = "<word>"


def memory_of(node: DictConfig, template: str) -> dict[str, int]:
    """Return bytes: of the weights, and what a training sample in bfloat16 and a picture take besides them at most.

    node: the `backbone` node of a configuration; its resolution is that of both. template: of their prompt.
    """
    backbone = load_backbone(node, "cpu")
    # Pages of the weights' file stay in memory after a weight was copied: count those that are used from here on.
    CLEAR.write_text("1")
    for weight in backbone.parameters():
        weight.sum()
    weights = _memory("smaps_rollup", "Referenced")
    side, guidance = backbone.spec.resolution, node.generation.guidance
    prompt, size = template.format("cat"), {"height": side, "width": side}
    return {
        "weights": weights,
        "training": _peak(_training(backbone, template.format(WORD))),
        "drawing": _peak(lambda: backbone.generate([prompt], {}, [0], steps=1, guidance=guidance, **size)),
    }


def _training(backbone: Backbone, prompt: str) -> Callable[[], None]:
    """Return what computes the loss of a sample, and the gradients of its token vectors."""
    side, dims = backbone.spec.resolution, {name: encoder.dim for name, encoder in backbone.spec.encoders.items()}
    vectors = {name: torch.zeros(1, 1, 1, dim, requires_grad=True) for name, dim in dims.items()}
    latents = backbone.encode_images(torch.zeros(1, 3, side, side)).mean

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            conditioning = backbone.encode_text(backbone.tokenize([prompt], {WORD: 1}), vectors)
            loss = backbone.loss(latents, torch.randn_like(latents), torch.tensor([500]), conditioning)
        loss.sum().backward()

    return learn


def _peak(work: Callable[[], object]) -> int:
    """Return the bytes that this work takes at most, without what its first call leaves behind."""
    work()
    ctypes.CDLL(None).malloc_trim(0)  # else it would use again what it has freed
    CLEAR.write_text("5")  # the peak is that from now on
    before = _memory("status", "VmRSS")
    work()
    return _memory("status", "VmHWM") - before


def _memory(file: str, key: str) -> int:
    """Return the bytes of an entry of this process's memory in /proc."""
    return int(re.search(rf"^{key}:\s+(\d+)", (PROCESS / file).read_text(), re.MULTILINE)[1]) * 1024
