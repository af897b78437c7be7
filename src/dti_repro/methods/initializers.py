"""Where a vector starts, and how many vectors an initializer gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dti_repro.backbones.base import EncoderSpec, InitializerEmbedding
from dti_repro.config.values import Init
from dti_repro.data.randomness import generator

COPY_NOISE = 0.1
"""How far the copies of a row are from it, as a share of its norm: equal vectors would get equal gradients."""


def initial_vectors(init: Init, initializer: InitializerEmbedding, encoder: str, spec: EncoderSpec) -> Tensor:
    """Return (vectors, dim), a vector for each of the initializer's. `random` is a uniform direction at the
    vocabulary's mean norm, a function of the seed and the concept's name. `contextual` is the text encoder's own output
    for the initializer, where CrossInit starts. The path of an embedding or a run: what it holds, which the initializer
    has as `start`."""
    rows = initializer.rows[encoder].detach().float()
    if init == "token":
        return rows.clone()
    if init == "vocab_mean":
        return spec.mean_row.to(rows).expand_as(rows).clone()
    if init == "random":
        random = generator(initializer.seed, initializer.concept, "init", encoder)
        directions = torch.randn(rows.shape, generator=random).to(rows.device)
        return normalize(directions, dim=-1) * spec.norms["mean"]
    if init == "contextual":
        return initializer.states[encoder].detach().to(rows).clone()
    return initializer.start[encoder].to(rows).clone()


def resized(initializer: InitializerEmbedding, vectors: int) -> InitializerEmbedding:
    """Return the initializer with so many vectors: cut, or repeated, each copy a small step away in a random direction
    that is a function of the seed and the concept's name."""

    def resize(kind: str, by_encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _resized(initializer, rows, vectors, kind, name) for name, rows in by_encoder.items()}

    start = None if initializer.start is None else resize("start", initializer.start)
    return replace(
        initializer, rows=resize("rows", initializer.rows), states=resize("states", initializer.states), start=start
    )


def _resized(initializer: InitializerEmbedding, rows: Tensor, vectors: int, *use: str) -> Tensor:
    if vectors <= len(rows):
        return rows[:vectors]
    repeated = rows[torch.arange(vectors) % len(rows)]
    random = generator(initializer.seed, initializer.concept, "vectors", *use)
    noise = torch.randn(repeated.shape, generator=random).to(repeated)
    noise[: len(rows)] = 0
    return repeated + COPY_NOISE * repeated.norm(dim=-1, keepdim=True) * normalize(noise, dim=-1)
