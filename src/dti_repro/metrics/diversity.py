"""How much the images of one prompt differ: a word that always gives the same picture has collapsed."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import nan
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision import models
from torchvision.transforms.v2 import functional

from dti_repro.errors import InputError
from dti_repro.metrics.base import Sample, SetMetric
from dti_repro.metrics.catalogue import loading_weights, weights_folder
from dti_repro.metrics.encoders import BATCH, ImageEncoder

PUBLISHED = "torchvision:IMAGENET1K_V1"
WEIGHTS = {
    "alex": models.AlexNet_Weights.IMAGENET1K_V1,
    "vgg": models.VGG16_Weights.IMAGENET1K_V1,
    "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
}


class Diversity(SetMetric):
    """The mean distance of two images of the same prompt, then the mean over prompts; NaN with one image for each.

    0 says that all seeds give the same image. A subclass defines `distances`.
    """

    @abstractmethod
    def distances(self, first: Sequence[Any], second: Sequence[Any]) -> Tensor:
        """Return the distance of each pair of kept images: (pairs,)."""

    @torch.inference_mode()
    def score_set(self, images: Sequence[Any], samples: Sequence[Sample]) -> float:
        of_prompt: dict[str, list[Any]] = defaultdict(list)
        for image, sample in zip(images, samples, strict=True):
            of_prompt[sample.text].append(image)
        pairs = {text: list(combinations(group, 2)) for text, group in of_prompt.items() if text}
        means = [self.distances(*zip(*found, strict=True)).mean().item() for found in pairs.values() if found]
        return fmean(means) if means else nan


class PairwiseLpips(Diversity):
    """LPIPS (Zhang et al. 2018) through torchmetrics, as Ruiz et al. 2023 measure diversity (their DIV): AlexNet,
    VGG or SqueezeNet with the linear layers that torchmetrics ships.

    checkpoint: `torchvision:IMAGENET1K_V1`, or `local-dir:<folder>` with torchvision's file in <folder>/checkpoints/.
    resize: the shorter side in pixels, which the distance depends on.
    """

    def __init__(
        self, net: Literal["alex", "vgg", "squeeze"], checkpoint: str, resize: Annotated[int, Field(ge=64)]
    ) -> None:
        super().__init__()
        self.resize = resize
        with loading_weights(checkpoint), _torchvision_folder(net, checkpoint):
            self.lpips = LearnedPerceptualImagePatchSimilarity(net_type=net, reduction="none", normalize=True)

    def keep(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        return [functional.resize(image, self.resize, antialias=True) for image in images]

    def distances(self, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Tensor:
        found = []
        for begin in range(0, len(first), BATCH):
            part = slice(begin, begin + BATCH)
            found.append(self.lpips(self._pixels(first[part]), self._pixels(second[part])).reshape(-1).cpu())
        self.lpips.reset()
        return torch.cat(found)

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Return (images, 3, height, width) in [0, 1]."""
        pixels = torch.stack([functional.pil_to_tensor(image) for image in images])
        return functional.to_dtype(pixels, torch.float32, scale=True).to(self.device)


class EncoderDiversity(Diversity):
    """1 - cosine of an encoder's embeddings."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def keep(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return list(self.encoder.images(images))

    def distances(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        return 1 - cosine_similarity(torch.stack(list(first)), torch.stack(list(second)))


@contextmanager
def _torchvision_folder(net: str, checkpoint: str) -> Iterator[None]:
    """Let torchvision find the weights of a network in the folder that the checkpoint names. InputError for another
    name, and for a file that is missing or holds more than tensors."""
    folder = weights_folder(checkpoint)
    if folder is None:
        if checkpoint != PUBLISHED:
            raise InputError(f"checkpoint {checkpoint}: give {PUBLISHED}, or local-dir:<folder>")
        yield
        return
    file = folder / "checkpoints" / WEIGHTS[net].url.rpartition("/")[2]
    if not file.is_file():
        raise InputError(f"evaluator weights: there is no {file}; it is published at {WEIGHTS[net].url}")
    torch.load(file, weights_only=True)  # raises an error for a pickle that could run code: torchvision reads any
    before = torch.hub.get_dir()
    torch.hub.set_dir(folder)
    try:
        yield
    finally:
        torch.hub.set_dir(before)
