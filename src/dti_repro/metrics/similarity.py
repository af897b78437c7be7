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
    """CLIP-T: cosine of an image and its prompt, in which the class word stands for the placeholder; NaN where there is
    no prompt to score: a photo has none."""

    suffix = ""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        texts = normalize(self.encoder.texts([sample.text + self.suffix for sample in samples]), dim=-1)
        cosines = (normalize(self.encoder.images(images), dim=-1) * texts).sum(dim=-1)
        without_text = torch.tensor([not sample.text for sample in samples])
        return self.of_cosines(cosines).masked_fill(without_text, float("nan"))

    def of_cosines(self, cosines: Tensor) -> Tensor:
        return cosines


class SigmoidTextScore(TextSimilarity):
    """The DTI paper's text score (Kim et al. 2025): SigLIP's probability that an image and its prompt belong together,
    sigmoid(scale cos + bias). The prompt has the class word, and `suffix` at its end."""

    def __init__(self, encoder: SiglipEncoder, suffix: str = ".") -> None:
        super().__init__(encoder)
        self.suffix = suffix

    def of_cosines(self, cosines: Tensor) -> Tensor:
        network = self.encoder.network
        return torch.sigmoid(float(network.logit_scale.exp()) * cosines + float(network.logit_bias))
