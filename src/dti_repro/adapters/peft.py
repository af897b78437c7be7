"""What LoRA and OFT share: peft puts them on the denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.adapters.files import attached, save_weights
from dti_repro.adapters.folder import HEADER, adapter_folder, adapter_sha256
from dti_repro.backbones.backbone import Backbone
from dti_repro.config.values import Targets
from dti_repro.losses.objectives import Objective, Reference


class PeftAdapter(Adapter, ABC):
    """float32 weights, stepped by AdamW (with betas .9 and .999), whatever the denoiser's own type.

    targets: ends of the names of the denoiser's layers that get an adapter. lr, weight_decay: of AdamW. objective: is
    minimised by the adapter and the vectors alike.
    """

    def __init__(
        self, targets: Targets, lr: PositiveFloat, weight_decay: NonNegativeFloat, objective: Objective
    ) -> None:
        self.targets = tuple(targets)
        self.lr = lr
        self.weight_decay = weight_decay
        self._objective = objective
        self._model: PeftModel | None = None
        self._part = ""  # the denoiser's name in diffusers' pipeline
        self._weights = nn.ParameterDict()

    @abstractmethod
    def config(self) -> PeftConfig:
        """Return peft's configuration of the adapter."""

    @contextmanager
    def attached(self, backbone: Backbone, random: Generator) -> Iterator[None]:
        what = f"adapter.targets [{', '.join(self.targets)}]"
        with attached(backbone.denoiser, self.config(), what, random.initial_seed()) as self._model:
            self._part = backbone.DENOISER
            named = self._model.named_parameters()
            self._weights = nn.ParameterDict({n.replace(".", "/"): p for n, p in named if p.requires_grad})
            yield

    def objective(self, loss: Tensor, reference: Reference) -> Tensor:
        def without_adapter(class_word: bool) -> Tensor:
            with torch.no_grad(), self._model.disable_adapter():
                return reference(class_word)

        return self._objective(loss, without_adapter)

    def optimizers(self) -> list[Optimizer]:
        return [AdamW(self._weights.values(), lr=self.lr, weight_decay=self.weight_decay)]

    def gradient_norm(self) -> float:
        return torch.nn.utils.get_total_norm([p.grad for p in self._weights.values() if p.grad is not None]).item()

    def with_weights(self, tokens: nn.Module) -> nn.Module:
        return nn.ModuleDict({"tokens": tokens, "adapter": self._weights})

    def save(self, embedding: Path) -> dict[str, str]:
        folder = adapter_folder(embedding)
        save_weights(folder, self._model)
        return {HEADER: adapter_sha256(folder)}
