"""Directional Textual Inversion (Kim et al. 2025)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import normalize

from dti_repro.backbones.base import BackboneSpec, InitializerEmbedding
from dti_repro.config.values import Init, Magnitude
from dti_repro.losses.priors import Prior
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_vectors


class DTI(SharedVectors):
    """e = m v with |v| = 1: the norm m is that of the vocabulary, only the direction v is learned. (An optimizer that
    normalises at the end lets |v| run free until the word is saved.)

    init: where v starts; the prior's mu is the initializer's direction in any case. learn_magnitude: log m is learned,
    too, one number per concept and text encoder, by Adam at magnitude_lr.
    """

    on_sphere: ClassVar[bool] = True

    def __init__(
        self, magnitude: Magnitude, init: Init, learn_magnitude: bool, magnitude_lr: PositiveFloat, prior: Prior
    ) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.init = init
        self.learn_magnitude = learn_magnitude
        self.magnitude_lr = magnitude_lr
        self._prior = prior

    def parameters_of(self, initializer: InitializerEmbedding, spec: BackboneSpec) -> nn.Module:
        directions = {
            name: normalize(initial_vectors(self.init, initializer, name, encoder), dim=-1)
            for name, encoder in spec.encoders.items()
        }
        learned = spec.encoders if self.learn_magnitude else {}
        logs = {name: torch.tensor(math.log(encoder.norm(self.magnitude))) for name, encoder in learned.items()}
        return nn.ModuleDict({"v": nn.ParameterDict(directions), "log_m": nn.ParameterDict(logs)})

    def vectors_of(self, concept: int) -> dict[str, Tensor]:
        v, log_m = self.concepts[concept].values()
        if self.learn_magnitude:
            return {name: log_m[name].exp() * v[name] for name in v}
        return {name: self.spec.encoders[name].norm(self.magnitude) * v[name] for name in v}

    def prior_of(self, concept: int) -> Tensor:
        rows = self.initializers[concept].rows
        return sum(self._prior(v, normalize(rows[name], dim=-1)) for name, v in self.concepts[concept]["v"].items())

    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": [v for c in self.concepts for v in c["v"].values()]}]
        if self.learn_magnitude:
            logs = [m for c in self.concepts for m in c["log_m"].values()]
            groups.append({"params": logs, "lr": self.magnitude_lr})
        return groups
