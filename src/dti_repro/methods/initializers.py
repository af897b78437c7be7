"""Where a vector starts: at the initializer's row, at random, or at the vocabulary's mean."""

from __future__ import annotations

import torch
from torch import Tensor

from dti_repro.backbones.base import EncoderSpec, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.data.randomness import generator


def initial_vectors(init: Init, initializer: InitializerEmbedding, encoder: str, spec: EncoderSpec) -> Tensor:
    """Return (vectors, dim), a vector for each token of the initializer. `random` is a uniform direction at the
    vocabulary's mean norm, a function of the seed and the concept's name."""
    rows = initializer.rows[encoder].detach().float()
    if init == "token":
        return rows.clone()
    if init == "vocab_mean":
        return spec.mean_row.to(rows).expand_as(rows).clone()
    random = generator(initializer.seed, initializer.concept, "init", encoder)
    directions = torch.randn(rows.shape, generator=random).to(rows.device)
    return torch.nn.functional.normalize(directions, dim=-1) * spec.norms["mean"]
