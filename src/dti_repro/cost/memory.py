"""Measure on a CPU the memory that a plan predicts: of the weights, of a training sample and of a picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch.autograd.profiler import profile

from dti_repro.backbones.load import load_backbone

PROCESS = Path("/proc/self")
WORD = "<word>"


def memory_of(node: DictConfig, template: str) -> dict[str, int]:
    """Return bytes: of the weights, and what a training sample in bfloat16 and a picture take besides them at most.

    node: the `backbone` node of a configuration; its resolution is that of both. template: of their prompt.
    """
    backbone = load_backbone(node, "cpu")
    # Pages of the weights' file stay in memory after a weight was copied: count those that are used from here on.
    (PROCESS / "clear_refs").write_text("1")
    for weight in backbone.parameters():
        weight.sum()
    pages = (PROCESS / "smaps_rollup").read_text()
    weights = int(re.search(r"^Referenced:\s+(\d+)", pages, re.MULTILINE)[1]) * 1024
    side, guidance = backbone.spec.resolution, node.generation.guidance
    dims = {name: encoder.dim for name, encoder in backbone.spec.encoders.items()}
    vectors = {name: torch.zeros(1, 1, 1, dim, requires_grad=True) for name, dim in dims.items()}
    latents = backbone.encode_images(torch.zeros(1, 3, side, side)).mean

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            conditioning = backbone.encode_text(backbone.tokenize([template.format(WORD)], {WORD: 1}), vectors)
            loss = backbone.loss(latents, torch.randn_like(latents), torch.tensor([500]), conditioning)
        loss.sum().backward()

    def draw() -> None:
        backbone.generate([template.format("cat")], {}, [0], steps=1, guidance=guidance, height=side, width=side)

    return {"weights": weights, "training": peak_bytes(learn), "drawing": peak_bytes(draw)}


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the bytes that torch has allocated at most during this work, as torch.cuda.max_memory_allocated does on a
    GPU, without what the work's first call leaves behind."""
    work()
    with profile(profile_memory=True) as profiler:
        work()
    changes = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in changes))
