"""The attribute reader: one classifier whose outputs are the heads of the attributes in a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dti_repro.artifacts.files import atomic_write
from dti_repro.toybox.evaluators.data import ABSENT, EvaluatorScenes, augment, soften, to_pixels
from dti_repro.toybox.evaluators.timm_stage import TimmStage
from dti_repro.toybox.scene import ATTRIBUTES


class Reader(TimmStage):
    """Cross entropy on each attribute that a scene has."""

    NAME: ClassVar[str] = "reader"

    def __init__(self, data: EvaluatorScenes, held_out: EvaluatorScenes, *, batch: int = 128, **network: Any) -> None:
        self.heads = ATTRIBUTES
        self.widths = [len(labels) for labels in self.heads.values()]
        super().__init__(data, held_out, batch=batch, outputs=sum(self.widths), **network)
        self._labels = data.labels()

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        # Epoch by epoch, so that every scene is seen equally often.
        epoch, at = divmod(step * self.batch, self.data.count - self.data.count % self.batch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.data.count)
        indices = np.sort(order[at : at + self.batch])
        pixels = augment(self.data.images[indices], np.random.default_rng([self.seed, 1, step]))
        logits = self._outputs(pixels)
        target = self._labels[indices].to(logits.device)
        losses = [
            F.cross_entropy(head, target[:, k], ignore_index=ABSENT, reduction="sum") / len(target)
            for k, head in enumerate(logits.split(self.widths, dim=1))
        ]
        figures = {name: round(loss.item(), 3) for name, loss in zip(self.heads, losses, strict=True)}
        return torch.stack(losses).sum(), figures

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the share read rightly of the scenes that have the attribute, on the pictures and on softened ones."""
        self.model.eval()
        target = self.held_out.labels()
        clean = to_pixels(self.held_out.images)
        figures = {}
        for suffix, pixels in (("", clean), ("_softened", soften(clean))):
            logits = torch.cat([self._outputs(part).cpu() for part in pixels.split(256)])
            for k, (name, head) in enumerate(zip(self.heads, logits.split(self.widths, dim=1), strict=True)):
                present = target[:, k] != ABSENT
                right = head.argmax(1)[present] == target[present, k]
                figures[name + suffix] = round(right.float().mean().item(), 4)
        return figures

    def save(self, folder: Path) -> None:
        super().save(folder)
        with atomic_write(folder / self.NAME / "heads.json") as temporary:  # its order is that of the outputs
            temporary.write_text(json.dumps(self.heads, indent=1) + "\n")
