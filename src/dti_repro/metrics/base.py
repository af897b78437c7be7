"""What every metric is: a torchmetrics `Metric` that keeps one value per image; means are taken last."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric


@dataclass(frozen=True)
class Sample:
    """What is known about a generated image."""

    concept: str  # or another key of its references
    text: str  # its prompt with the class word
    expect: Mapping[str, str] | None = None  # what it should show


class ImageMetric(Metric, ABC):
    """One value per image, in the order of the updates; NaN where an image has nothing that this metric reads.

    A subclass defines `score`. `compute` gives (images,), float64, and () for a single image: torchmetrics drops the
    dimension of one element.
    """

    reads_references = False  # True: `set_references` keeps those of each concept in `references`
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[str, Any] = {}
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def set_references(self, concept: str, images: Sequence[Image.Image]) -> None:
        """Encode a concept's references, once; metrics that read none ignore them."""

    @abstractmethod
    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        """Return (images,)."""

    def update(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> None:
        self.values.append(self.score(images, samples).double())

    def compute(self) -> Tensor:
        return torch.cat(self.values) if self.values else torch.empty(0, dtype=torch.float64)
