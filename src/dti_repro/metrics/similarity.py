"""Cosine of images to references (CLIP-I, DINO, DINOv2) and to prompts (CLIP-T), and SigLIP's sigmoid score."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.encoders import ClipEncoder, ImageEncoder, SiglipEncoder


class ReferenceSimilarity(ImageMetric):
    """Mean over the concept's references of the cosine to each; NaN for a concept without references."""

    reads_references = True

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def set_references(self, concept: str, images: Sequence[Image.Image]) -> None:
        self.references[concept] = normalize(self.encoder.images(images), dim=-1) if images else None

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        features = normalize(self.encoder.images(images), dim=-1)
        values = features.new_full((len(samples),), float("nan"))
        for concept in {sample.concept for sample in samples}:
            if (references := self.references[concept]) is not None:
                rows = torch.tensor([i for i, sample in enumerate(samples) if sample.concept == concept])
                values[rows] = (features[rows] @ references.T).mean(dim=1)
        return values


class TextSimilarity(ImageMetric):
    """CLIP-T: cosine of an image and its prompt, in which the class word stands for the placeholder."""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        texts = self.encoder.texts([sample.text for sample in samples])
        return _nan_without_text(_paired_cosine(self.encoder.images(images), texts), samples)


class SigmoidTextScore(ImageMetric):
    """The DTI paper's text score (Kim et al. 2025): SigLIP's probability that an image and its prompt belong together,
    sigmoid(scale cos + bias). The prompt has the class word, and `suffix` at its end."""

    def __init__(self, encoder: SiglipEncoder, suffix: str = ".") -> None:
        super().__init__()
        self.encoder, self.suffix = encoder, suffix

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        texts = self.encoder.texts([sample.text + self.suffix for sample in samples])
        scale, bias = self.encoder.scale_and_bias
        logits = scale * _paired_cosine(self.encoder.images(images), texts) + bias
        return _nan_without_text(torch.sigmoid(logits), samples)


def _paired_cosine(images: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine of image i and text i: (images, d), (images, d) to (images,)."""
    return (normalize(images, dim=-1) * normalize(texts, dim=-1)).sum(dim=-1)


def _nan_without_text(values: Tensor, samples: Sequence[Sample]) -> Tensor:
    """Put NaN where there is no prompt to score: a photo has none."""
    return values.masked_fill(torch.tensor([not sample.text for sample in samples]), float("nan"))
