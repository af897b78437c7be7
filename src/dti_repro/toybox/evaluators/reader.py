"""The attribute reader: one classifier whose outputs are the heads of the attributes in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dti_repro.artifacts.files import write_file
from dti_repro.toybox.evaluators.data import (
    ABSENT,
    WIDTHS,
    EvaluatorScenes,
    attribute_losses,
    augment,
    soften,
    to_pixels,
)
from dti_repro.toybox.evaluators.timm_stage import TimmStage
from dti_repro.toybox.scene import ATTRIBUTES


class Reader(TimmStage):
    """Cross entropy on each attribute that a scene has."""

    NAME: ClassVar[str] = "reader"

    def __init__(self, data: EvaluatorScenes, held_out: EvaluatorScenes, *, batch: int = 128, **network: Any) -> None:
        super().__init__(data, held_out, batch=batch, outputs=sum(WIDTHS), **network)
        self._labels = data.labels()

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        indices = self.data.batch(self.batch, step, self.seed)
        pixels = augment(self.data.images[indices], np.random.default_rng([self.seed, 1, step]))
        logits = self._outputs(pixels)
        losses = attribute_losses(logits, self._labels[indices].to(logits.device))
        figures = {name: round(loss.item(), 3) for name, loss in zip(ATTRIBUTES, losses, strict=True)}
        return losses.sum(), figures

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the share read rightly of the scenes that have the attribute, on the pictures and on softened ones."""
        self.model.eval()
        target = self.held_out.labels()
        clean = to_pixels(self.held_out.images)
        figures = {}
        for suffix, pixels in (("", clean), ("_softened", soften(clean))):
            logits = torch.cat([self._outputs(part).cpu() for part in pixels.split(256)])
            for k, (name, head) in enumerate(zip(ATTRIBUTES, logits.split(WIDTHS, dim=1), strict=True)):
                present = target[:, k] != ABSENT
                right = head.argmax(1)[present] == target[present, k]
                figures[name + suffix] = round(right.float().mean().item(), 4)
        return figures

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_file(folder / self.NAME / "heads.json", json.dumps(ATTRIBUTES, indent=1) + "\n")  # as the outputs
