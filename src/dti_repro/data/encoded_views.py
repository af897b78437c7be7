"""The latents of the views of a concept's photos, and which of them a training shows next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dti_repro.backbones.base import LatentDistribution
from dti_repro.backbones.diffusers_base import DiffusersBackbone
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.views import Framing, View, cut


@dataclass(frozen=True)
class EncodedViews:
    """Views are numbered in the order of their photos. Those of one shape are a bucket and one tensor; all indices that
    are given to a method must be of one bucket."""

    photo: tuple[int, ...]  # of each view
    bucket: tuple[int, ...]  # of each view
    place: Tensor  # (views,) its row in the bucket's tensors
    sizes: Tensor  # (views, 6) as in View
    posteriors: tuple[LatentDistribution, ...]  # of each bucket
    weights: tuple[Tensor, ...] | None  # (rows, height, width) of each bucket on the latent grid; None: all equal

    @classmethod
    def encode(
        cls, backbone: DiffusersBackbone, concept: Concept, cache: LatentCache, framing: Framing, seed: int
    ) -> EncodedViews:
        """Read, cut and encode the photos. InputError for a photo that cannot be read, and for a mask that leaves
        nothing of a view."""
        views = list(cut(concept, framing, backbone.spec.resolution, backbone.SIDE, seed))
        rows: dict[tuple[int, int], list[View]] = {}
        places = []
        for view in views:
            bucket = rows.setdefault(view.pixels.size, [])
            places.append(len(bucket))
            bucket.append(view)
        posteriors = tuple(cache.encode(backbone, _pixels(bucket)) for bucket in rows.values())
        weights = [_weights(bucket, p.mean.shape[-2:]) for bucket, p in zip(rows.values(), posteriors, strict=True)]
        return cls(
            photo=tuple(view.photo for view in views),
            bucket=tuple(list(rows).index(view.pixels.size) for view in views),
            place=torch.tensor(places, device=backbone.device),
            sizes=torch.tensor([view.sizes for view in views], device=backbone.device),
            posteriors=posteriors,
            weights=tuple(weight.to(backbone.device) for weight in weights) if concept.masks else None,
        )

    def bucket_of_photos(self) -> list[int]:
        """Return the bucket of each photo."""
        return [self.bucket[self.photo.index(photo)] for photo in sorted(set(self.photo))]

    def views_of(self, photo: int) -> range:
        """Return the views of a photo."""
        first = self.photo.index(photo)
        return range(first, first + self.photo.count(photo))

    def shape(self, index: Tensor) -> tuple[int, ...]:
        """Return the shape (channels, ..., height, width) of the latents of these views."""
        return tuple(self.posteriors[self._bucket(index)].mean.shape[1:])

    def sample(self, index: Tensor, noise: Tensor) -> Tensor:
        """Return latents of the views that index (batch,) selects, with this noise of the autoencoder's posterior."""
        return self.posteriors[self._bucket(index)].sample(self.place[index], noise)

    def weight(self, index: Tensor) -> Tensor | None:
        """Return how much each latent of these views counts in the loss: (batch, height, width), or None."""
        return None if self.weights is None else self.weights[self._bucket(index)][self.place[index]]

    def _bucket(self, index: Tensor) -> int:
        return self.bucket[int(index[0])] if len(self.posteriors) > 1 else 0


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
