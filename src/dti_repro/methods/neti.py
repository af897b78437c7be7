"""NeTI (Alaluf et al. 2023): a small network makes the vector of each timestep and cross-attention layer."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from dti_repro.backbones.base import BackboneSpec, Dependence, InitializerEmbedding, TokenVectors
from dti_repro.data.randomness import generator
from dti_repro.methods.base import TokenMethod, stacked

TIME = 1000  # the scale on which the published sigma_t and anchors are
WIDTH = 128  # of the hidden layers
Probability = Annotated[float, Field(ge=0, le=1)]


class NeTI(TokenMethod):
    """Fourier features of (timestep, layer), three linear layers, and an output that has the norm of the initializer's
    row: the first half is the token vector; the second, if `bypass` is true, becomes the bypass, `strength` times a
    unit vector.

    features: pairs of sine and cosine, whose frequencies are normal with the deviations sigma_t and sigma_l. anchors:
    timesteps that the first layer is initialised from, at each layer. dropout: the probability, in training, that all
    hidden units after a random one are zero (nested dropout).
    """

    depends_on: ClassVar[frozenset[Dependence]] = frozenset({"layer", "timestep"})

    def __init__(
        self,
        features: PositiveInt,
        sigma_t: PositiveFloat,
        sigma_l: PositiveFloat,
        anchors: PositiveInt,
        dropout: Probability,
        bypass: bool,
        strength: NonNegativeFloat,
    ) -> None:
        super().__init__()
        self.features = features
        self.sigmas = sigma_t, sigma_l
        self.anchors = anchors
        self.dropout = dropout
        self.bypass = bypass
        self.strength = strength

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        anchors = [(TIME / self.anchors * k, layer) for k in range(self.anchors) for layer in range(spec.layers)]
        mappers = {}
        for name, rows in initializer.rows.items():
            random = generator(initializer.seed, initializer.concept, "neti", name)
            frequencies = torch.randn(self.features, 2, generator=random) * torch.tensor(self.sigmas)
            strength = self.strength if self.bypass else None
            mappers[name] = Mapper(rows, frequencies, torch.tensor(anchors), strength, random)
        return nn.ModuleDict(mappers)

    def forward(self, concept: Tensor, t: Tensor | None = None, chance: Tensor | None = None) -> TokenVectors:
        times = t.float() * TIME / self.spec.timesteps
        out = {}
        for encoder in self.initializers[0].rows:
            rows = []
            for k, c in enumerate(concept.tolist()):
                kept = None if chance is None else self._kept(chance[k].item())
                rows.append(self.concepts[c][encoder](times[k], self.spec.layers, kept))
            out[encoder] = stacked(rows)
        return out

    def _kept(self, chance: float) -> int | None:
        """Return how many hidden units are kept, None for all: with the chance of the dropout, any number from 0 to
        WIDTH - 1."""
        return int(chance / self.dropout * WIDTH) if chance < self.dropout else None


class Mapper(nn.Module):
    """(timestep, layer) -> vectors of one word and text encoder."""

    def __init__(
        self, rows: Tensor, frequencies: Tensor, anchors: Tensor, strength: float | None, random: Generator
    ) -> None:
        """rows: (vectors, dim), of which the norms are kept. frequencies: (features, 2). anchors: (anchors, 2) pairs of
        timestep and layer. strength: of the bypass, None for no bypass. random: of the initial weights, which are
        uniform as torch's own are."""
        super().__init__()
        self.dim = rows.shape[1]
        self.strength = strength
        self.register_buffer("frequencies", frequencies.to(rows.device))
        self.register_buffer("norms", rows.detach().float().norm(dim=-1))
        first = nn.Linear(2 * len(frequencies), len(anchors))
        width = self.dim * (1 if strength is None else 2)
        hidden = [first, nn.Linear(len(anchors), WIDTH), nn.LayerNorm(WIDTH), nn.LeakyReLU()]
        hidden += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.LeakyReLU()]
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Linear(WIDTH, len(rows) * width)
        for layer in [*hidden, self.output]:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for weights in layer.parameters():
                    weights.data.uniform_(-bound, bound, generator=random)
        self.to(rows.device)
        first.weight.data.copy_(self._encode(anchors.to(rows.device)))

    def forward(self, t: Tensor, layers: int, kept: int | None) -> Tensor:
        """Return (layers, vectors, dim, or twice dim with a bypass) for a timestep () on the scale of 1000. kept: the
        number of hidden units that are not dropped, None for all."""
        number = torch.arange(layers, device=self.norms.device)
        places = torch.stack([t.to(self.norms.device).expand(layers), number], dim=-1)
        hidden = self.hidden(self._encode(places))
        if kept is not None:
            hidden = hidden * (torch.arange(WIDTH, device=hidden.device) < kept)
        rows = normalize(self.output(hidden).unflatten(-1, (len(self.norms), -1)), dim=-1) * self.norms[:, None]
        if self.strength is None:
            return rows
        vectors, bypass = rows.split(self.dim, dim=-1)
        return torch.cat([vectors, self.strength * normalize(bypass, dim=-1)], dim=-1)

    def _encode(self, places: Tensor) -> Tensor:
        """Return the unit Fourier features (places, 2 x features) of pairs (places, 2) of timestep and layer."""
        angles = (places[:, None].float() * self.frequencies).sum(dim=-1)  # autocast would round a matrix product
        return normalize(torch.cat([angles.sin(), angles.cos()], dim=-1), dim=-1)
