"""How good a picture looks by itself, whatever its prompt is: metrics without a reference, through pyiqa."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.catalogue import loading_weights, weights_file


class ImageQuality(ImageMetric):
    """A metric of pyiqa that reads one image, in its own range; for some of them less is better.

    metric: its name, such as musiq. checkpoint: hub:<owner>/<name>/<file>, or a file.
    """

    def __init__(self, metric: str, checkpoint: str) -> None:
        super().__init__()
        with loading_weights(checkpoint):
            import pyiqa

            file = weights_file(checkpoint)
            torch.load(file, weights_only=True)  # raises an error for a pickle that could run code: pyiqa reads any
            self.network = pyiqa.create_metric(metric, device="cpu", pretrained_model_path=file)

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        values = []
        for image in images:  # one by one, as they may have different sizes
            pixels = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
            values.append(self.network(pixels[None].to(self.device)).reshape(()).cpu())
        return torch.stack(values)
