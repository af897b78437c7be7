"""The subject encoder: pictures of one individual agree, two individuals of a class do not, whatever surrounds them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dti_repro.toybox.evaluators.data import EvaluatorScenes, augment, soften, to_pixels
from dti_repro.toybox.evaluators.timm_stage import TimmStage


class SubjectEncoder(TimmStage):
    """InfoNCE over individuals, two views each, in batches that share class and colour in part.

    The embedding is what timm returns for ``num_classes=0``: the pooled, normalised features; there is no projection.
    """

    NAME: ClassVar[str] = "subject_encoder"

    def __init__(
        self,
        data: EvaluatorScenes,
        held_out: EvaluatorScenes,
        *,
        batch: int = 96,
        kinds: int = 2,
        temperature: float = 0.06,
        **network: Any,
    ) -> None:
        """``batch`` individuals a step, half of them of ``kinds`` pairs of class and colour, the rest of any."""
        super().__init__(data, held_out, batch=batch, outputs=0, **network)
        self.kinds, self.temperature = kinds, temperature
        self._members: dict[tuple[str, str], list[int]] = {}
        for number in range(data.individuals):
            individual = data.individual(number)
            self._members.setdefault((individual.cls, individual.color), []).append(number)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, step])
        chosen = self._individuals(rng)
        views = np.argsort(rng.uniform(size=(len(chosen), self.data.views)), axis=1)[:, :2]
        images = np.concatenate([self.data.images[chosen * self.data.views + views[:, k]] for k in range(2)])
        features = F.normalize(self._outputs(augment(images, rng)), dim=1)
        with torch.autocast(features.device.type, enabled=False):
            similar = features @ features.T / self.temperature
        similar = similar.masked_fill(torch.eye(len(similar), dtype=torch.bool, device=similar.device), -torch.inf)
        partner = torch.arange(len(similar), device=similar.device).roll(len(chosen))
        top1 = (similar.argmax(1) == partner).float().mean().item()
        return F.cross_entropy(similar, partner), {"top1": round(top1, 3)}

    def _individuals(self, rng: np.random.Generator) -> np.ndarray:
        kinds = list(self._members)
        alike: list[int] = []
        for kind in rng.choice(len(kinds), size=self.kinds, replace=False):
            members = self._members[kinds[kind]]
            wanted = min(len(members), self.batch // 2 // self.kinds)
            alike.extend(int(i) for i in rng.choice(members, size=wanted, replace=False))
        others = np.setdiff1d(rng.choice(self.data.individuals, size=self.batch, replace=False), alike)
        return np.concatenate([alike, rng.permutation(others)[: self.batch - len(alike)]]).astype(np.int64)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return how often, of 1,000 held-out individuals, one view finds the other, and the cosines between views."""
        self.model.eval()
        individuals = min(1000, self.held_out.individuals)
        first = np.arange(individuals) * self.held_out.views
        clean, other = (to_pixels(self.held_out.images[first + view]) for view in range(2))
        figures = {}
        for suffix, query in (("", clean), ("_softened", soften(clean))):
            one, two = (
                F.normalize(torch.cat([self._outputs(part).cpu() for part in pixels.split(250)]), dim=1)
                for pixels in (query, other)
            )
            similar = one @ two.T
            found = similar.argmax(1) == torch.arange(len(similar))
            figures[f"retrieval_top1_of_{len(similar)}{suffix}"] = round(found.float().mean().item(), 4)
            if not suffix:
                classes = np.array([self.held_out.individual(i).cls for i in range(individuals)])
                same_class = torch.from_numpy(classes[:, None] == classes)
                own = torch.eye(len(similar), dtype=torch.bool)
                figures["cosine_same_individual"] = round(similar[own].mean().item(), 4)
                figures["cosine_same_class"] = round(similar[same_class & ~own].mean().item(), 4)
                figures["cosine_other_class"] = round(similar[~same_class].mean().item(), 4)
        return figures
