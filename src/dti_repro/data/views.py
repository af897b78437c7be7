"""What a training shows of photos: parts of them at the training's size, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dti_repro.backbones.base import Backbone, LatentDistribution
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.masks import load_mask
from dti_repro.data.photos import centre_crop, load_photo
from dti_repro.errors import InputError


@dataclass(frozen=True)
class View:
    """A part of a photo, at the size of the training."""

    photo: int  # its place among the concept's photos
    pixels: Image.Image
    mask: Image.Image | None  # the same part of the photo's mask, in grey: what the loss counts


@dataclass(frozen=True)
class EncodedViews:
    """The latents of a concept's views."""

    photo: Tensor  # (views,) the photo that each is of
    posterior: LatentDistribution
    weights: Tensor | None  # (views, height, width) on the latent grid, None: all equal

    @classmethod
    def encode(cls, backbone: Backbone, concept: Concept, cache: LatentCache) -> EncodedViews:
        """Read, cut and encode the photos. InputError for a photo that cannot be read, and for a mask that leaves
        nothing of a view."""
        views = cut(concept, backbone.spec.resolution)
        pixels = torch.from_numpy(np.stack([np.asarray(view.pixels) for view in views]))
        latents = cache.encode(backbone, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        photo = torch.tensor([view.photo for view in views])
        return cls(photo, latents, _weights(views, latents.mean.shape[-2:]) if concept.masks else None)

    def sample(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return latents of the views that index (batch,) selects, with this noise of the autoencoder's posterior."""
        return self.posterior.sample(index, noise)

    def weight(self, index: Tensor) -> Tensor | None:
        """Return how much each latent of these views counts in the loss: (batch, height, width), or None."""
        return None if self.weights is None else self.weights[index].to(self.posterior.mean.device)


def cut(concept: Concept, size: int) -> list[View]:
    """Return the views of a concept's photos. size: the side of the training's square image in pixels."""
    views = []
    for k, path in enumerate(concept.images):
        photo = load_photo(path)
        mask_file = concept.masks[k] if concept.masks else None
        mask = None if mask_file is None else load_mask(mask_file, photo.size)
        view = View(k, centre_crop(photo, size), None if mask is None else centre_crop(mask, size))
        if view.mask is not None and view.mask.getextrema()[1] == 0:
            raise InputError(f"mask {mask_file} is black in the square that is cut from the middle of its photo")
        views.append(view)
    return views


def _weights(views: Sequence[View], grid: Sequence[int]) -> Tensor:
    """Return the share of each latent that is white in the mask: (views, height, width); 1 for a view without a
    mask."""
    size = views[0].pixels.size
    masks = [np.asarray(view.mask or Image.new("L", size, 255), np.float32) / 255 for view in views]
    return adaptive_avg_pool2d(torch.from_numpy(np.stack(masks))[:, None], tuple(grid))[:, 0]
