"""Cosine of images to references (CLIP-I, DINO, DINOv2) and to prompts (CLIP-T), and SigLIP's sigmoid
score."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.encoders import ClipEncoder, ImageEncoder, SiglipEncoder


def reference_cosine(images: Tensor, references: Tensor) -> Tensor:
    """Mean over references of the cosine to each: (images, d), (references, d) to (images,)."""
    return (normalize(images, dim=-1) @ normalize(references, dim=-1).T).mean(dim=1)


def paired_cosine(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of image i and text i: (images, d), (images, d) to (images,)."""
    return (normalize(images, dim=-1) * normalize(texts, dim=-1)).sum(dim=-1)


def sigmoid_score(images: Tensor, texts: Tensor, scale: float, bias: float) -> Tensor:
    """SigLIP's probability that image i and text i belong together, sigmoid(scale cos + bias): (images,)."""
    return torch.sigmoid(scale * paired_cosine(images, texts) + bias)


class ReferenceSimilarity(ImageMetric):
    """Likeness to the concept's references, which are encoded once per concept; NaN for a concept without any."""

    reads_references = True

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.references: dict[str, Tensor | None] = {}

    def set_references(self, concept: str, images: Sequence[Image.Image]) -> None:
        self.references[concept] = self.encoder.images(images) if images else None

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        features = self.encoder.images(images)
        values = features.new_full((len(samples),), float("nan"))
        for concept in {sample.concept for sample in samples}:
            references = self.references[concept]
            if references is None:
                continue
            rows = torch.tensor([i for i, sample in enumerate(samples) if sample.concept == concept])
            values[rows] = reference_cosine(features[rows], references)
        return values


class TextSimilarity(ImageMetric):
    """CLIP-T: cosine of an image and its prompt, in which the class word stands for the placeholder."""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        texts = self.encoder.texts([sample.text for sample in samples])
        return _prompted(paired_cosine(self.encoder.images(images), texts), samples)


class SigmoidTextScore(ImageMetric):
    """The DTI paper's text score (Kim et al. 2025): the prompt with the class word, plus ``suffix``."""

    def __init__(self, encoder: SiglipEncoder, suffix: str = ".") -> None:
        super().__init__()
        self.encoder, self.suffix = encoder, suffix

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        texts = self.encoder.texts([sample.text + self.suffix for sample in samples])
        scores = sigmoid_score(self.encoder.images(images), texts, *self.encoder.scale_and_bias)
        return _prompted(scores, samples)


def _prompted(values: Tensor, samples: Sequence[Sample]) -> Tensor:
    """NaN where there is no prompt to score: a photo has none."""
    return values.masked_fill(torch.tensor([not sample.text for sample in samples]), float("nan"))
