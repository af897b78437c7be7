"""What every metric is: a torchmetrics `Metric` with one value per image, or one per set of images; means are taken
last."""

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


class ScoreMetric(Metric, ABC):
    """What the two kinds share: the references of each concept, and images that come in batches."""

    reads_references = False  # True: `set_references` keeps those of each concept in `references`
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[str, Any] = {}

    def set_references(self, concept: str, images: Sequence[Image.Image]) -> None:
        """Encode a concept's references, once; metrics that read none ignore them."""

    @abstractmethod
    def update(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> None:
        """Take the next images."""


class ImageMetric(ScoreMetric):
    """One value per image, in the order of the updates; NaN where an image has nothing that this metric reads.

    A subclass defines `score`. `compute` gives (images,), float64, and () for a single image: torchmetrics drops the
    dimension of one element.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        """Return (images,)."""

    def update(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> None:
        self.values.append(self.score(images, samples).double())

    def compute(self) -> Tensor:
        return torch.cat(self.values) if self.values else torch.empty(0, dtype=torch.float64)


class SetMetric(ScoreMetric):
    """One value for all images of a concept in one prompt set; NaN where these images have none.

    A subclass defines `score_set`, and `keep` if it reads less than the whole images: all of a set are held until its
    last one has come. `compute` gives concept -> value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sets: dict[str, list[tuple[Any, Sample]]] = {}

    def keep(self, images: Sequence[Image.Image]) -> Sequence[Any]:
        """Return what is held of each image."""
        return images

    @abstractmethod
    def score_set(self, images: Sequence[Any], samples: Sequence[Sample]) -> float:
        """Return the value of a set, from what was kept of its images."""

    def update(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> None:
        for kept, sample in zip(self.keep(images), samples, strict=True):
            self.sets.setdefault(sample.concept, []).append((kept, sample))

    def compute(self) -> dict[str, float]:
        return {concept: self.score_set(*zip(*members, strict=True)) for concept, members in self.sets.items()}

    def reset(self) -> None:
        super().reset()
        self.sets = {}
