"""The mean of squared errors over the subject of an image."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return sum(w e) / sum(w) for each sample of error (batch, channels, ..., height, width): (batch,).

    weight: w of each place, (batch, height, width), the same in all channels.
    """
    w = weight.view(len(weight), *[1] * (error.ndim - 3), *weight.shape[1:]).expand_as(error)
    return (w * error).flatten(1).sum(dim=1) / w.flatten(1).sum(dim=1)
