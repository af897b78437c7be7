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
"""How far the copies of a row start from it, as a share of its norm, so that they can become different vectors."""


def initial_vectors(init: Init, initializer: InitializerEmbedding, encoder: str, spec: EncoderSpec) -> Tensor:
    """Return (vectors, dim), a vector for each of the initializer's. `random` is a uniform direction at the
    vocabulary's mean norm, a function of the seed and the concept's name. `contextual` is the text encoder's own output
    for the initializer, where CrossInit starts. The path of an embedding or a run: what it holds, which the initializer
    has as `start`. `token`, `contextual` and a path may repeat rows: each copy is then a small step away in a random
    direction."""
    rows = initializer.rows[encoder].detach().float()
    if init == "token":
        return _copies_apart(initializer, rows, "rows", encoder)
    if init == "vocab_mean":
        return spec.mean_row.to(rows).expand_as(rows).clone()
    if init == "random":
        random = generator(initializer.seed, initializer.concept, "init", encoder)
        directions = torch.randn(rows.shape, generator=random).to(rows.device)
        return normalize(directions, dim=-1) * spec.norms["mean"]
    if init == "contextual":
        return _copies_apart(initializer, initializer.states[encoder].detach().to(rows), "states", encoder)
    return _copies_apart(initializer, initializer.start[encoder].to(rows), "start", encoder)


def resized(initializer: InitializerEmbedding, vectors: int) -> InitializerEmbedding:
    """Return the initializer with so many vectors: cut, or repeated."""

    def resize(by_encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: rows[torch.arange(vectors) % len(rows)] for name, rows in by_encoder.items()}

    rows, states = resize(initializer.rows), resize(initializer.states)
    start = None if initializer.start is None else resize(initializer.start)
    distinct = initializer.positions if vectors > initializer.positions else None
    return replace(initializer, rows=rows, states=states, start=start, distinct=distinct)


def _copies_apart(initializer: InitializerEmbedding, rows: Tensor, *use: str) -> Tensor:
    """Return the rows, those that repeat others moved in a direction that is a function of the seed and the concept's
    name."""
    if initializer.distinct is None:
        return rows.clone()
    random = generator(initializer.seed, initializer.concept, "vectors", *use)
    noise = torch.randn(rows.shape, generator=random).to(rows)
    noise[: initializer.distinct] = 0
    return rows + COPY_NOISE * rows.norm(dim=-1, keepdim=True) * normalize(noise, dim=-1)
