"""The latents of the views of a concept's photos, and which of them a training shows next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dti_repro.backbones.backbone import Backbone
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.views import Framing, View, cut


class EncodedViews:
    """Views are numbered in the order of their photos. Those of one shape are a bucket and one tensor; all indices that
    are given to a method must be of one bucket."""

    def __init__(self, backbone: Backbone, concept: Concept, cache: LatentCache, framing: Framing, seed: int) -> None:
        """Read, cut and encode the photos. InputError for a photo that cannot be read, and for a mask that leaves
        nothing of a view."""
        views = list(cut(concept, framing, backbone.spec.resolution, backbone.SIDE, seed))
        shapes = list(dict.fromkeys(view.pixels.size for view in views))
        buckets = [[view for view in views if view.pixels.size == shape] for shape in shapes]
        self.bucket = [shapes.index(view.pixels.size) for view in views]
        places = [self.bucket[:k].count(bucket) for k, bucket in enumerate(self.bucket)]
        self.photo = [view.photo for view in views]
        self.bucket_of_photos = list(dict(zip(self.photo, self.bucket, strict=True)).values())
        self.sizes = torch.tensor([view.sizes for view in views], device=backbone.device)  # (views, 6), as in View
        self._place = torch.tensor(places, device=backbone.device)  # of each view in its bucket's tensors
        self._posteriors = [cache.encode(backbone, _pixels(bucket)) for bucket in buckets]
        self._weights: list[Tensor] | None = None  # on the latent grid, of each bucket; None: all equal
        if concept.masks:
            pairs = zip(buckets, self._posteriors, strict=True)
            self._weights = [_weights(bucket, p.mean.shape[-2:]).to(backbone.device) for bucket, p in pairs]

    def views_of(self, photo: int) -> list[int]:
        return [view for view, of in enumerate(self.photo) if of == photo]

    def shape(self, index: Tensor) -> tuple[int, ...]:
        """Return the shape (channels, ..., height, width) of the latents of these views."""
        return tuple(self._posteriors[self._bucket_of(index)].mean.shape[1:])

    def sample(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return latents of the views that index (batch,) selects, with this noise of the autoencoder's posterior."""
        return self._posteriors[self._bucket_of(index)].sample(self._place[index], noise)

    def weight(self, index: Tensor) -> Tensor | None:
        """Return how much each latent of these views counts in the loss: (batch, height, width), or None."""
        return None if self._weights is None else self._weights[self._bucket_of(index)][self._place[index]]

    def _bucket_of(self, index: Tensor) -> int:
        return self.bucket[index[0]] if len(self._posteriors) > 1 else 0  # a GPU's index is not read without need


def _pixels(views: Sequence[View]) -> Tensor:
    """Return (views, 3, height, width) in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(view.pixels) for view in views]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _weights(views: Sequence[View], grid: Sequence[int]) -> Tensor:
    """Return the share of each latent that is white in the mask: (views, height, width); 1 for a view without a
    mask."""
    white = np.full(views[0].pixels.size[::-1], 255, np.float32)
    masks = [white if view.mask is None else np.asarray(view.mask, np.float32) for view in views]
    return adaptive_avg_pool2d(torch.from_numpy(np.stack(masks))[:, None] / 255, tuple(grid))[:, 0]
