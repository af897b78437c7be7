"""What every metric is: a module that gives one value per image, or one per set of images; means are taken last."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Sample:
    """What is known about a generated image."""

    concept: str  # or another key of its references
    text: str  # its prompt with the class word
    expect: Mapping[str, str] | None = None  # what it should show


class ScoreMetric(nn.Module, ABC):
    """What the two kinds share: the references of each concept."""

    reads_references = False  # True: `set_references` keeps those of each concept in `references`

    def __init__(self) -> None:
        super().__init__()
        self.references: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def set_references(self, concept: str, images: Sequence[Image.Image]) -> None:
        """Encode a concept's references, once; metrics that read none ignore them."""

    def check(self, expect: Mapping[str, str]) -> None:
        """Raise InputError for what an image should show and this metric can never read."""


class ImageMetric(ScoreMetric):
    """One value per image; NaN where an image has nothing that this metric reads."""

    @abstractmethod
    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        """Return (images,)."""


class SetMetric(ScoreMetric):
    """One value for all images of a concept in one prompt set; NaN where these images have none.

    A subclass defines `score_set`, and `keep` if it reads less than the whole images: all of a set are held until its
    last one has come.
    """

    def keep(self, images: Sequence[Image.Image]) -> Sequence[Any]:
        """Return what is held of each image."""
        return images

    @abstractmethod
    def score_set(self, images: Sequence[Any], samples: Sequence[Sample]) -> float:
        """Return the value of a set, from what was kept of its images."""
