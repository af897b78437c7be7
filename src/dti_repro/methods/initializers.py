"""Where a vector starts: at the class word's row, at random, or at the vocabulary's mean."""

from __future__ import annotations

import torch
from torch import Tensor

from dti_repro.backbones.base import EncoderSpec, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.data.randomness import generator


def initial_rows(init: Init, start: InitializerEmbedding, encoder: str, spec: EncoderSpec) -> Tensor:
    """(vectors, dim), as many as the initializer has tokens. `random` is a uniform direction at the
    vocabulary's mean norm, a function of the seed and the concept's name."""
    rows = start.rows[encoder].detach().float()
    if init == "token":
        return rows.clone()
    if init == "vocab_mean":
        return spec.mean_row.to(rows).expand_as(rows).clone()
    drawn = torch.randn(rows.shape, generator=generator(start.seed, start.concept, "init", encoder)).to(rows.device)
    return torch.nn.functional.normalize(drawn, dim=-1) * spec.norms["mean"]
