"""The mean of squared errors over an image, all of it or the subject alone."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Return sum(w e) / sum(w) for each sample of error (batch, channels, ..., height, width): (batch,).

    weight: w of each place, (batch, height, width), the same in all channels; None: 1, the plain mean.
    """
    if weight is None:
        return error.mean(dim=tuple(range(1, error.ndim)))
    w = weight.view(len(weight), *[1] * (error.ndim - 3), *weight.shape[1:]).expand_as(error)
    return (w * error).flatten(1).sum(dim=1) / w.flatten(1).sum(dim=1)
