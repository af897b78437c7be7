"""Low-rank adaptation (Hu et al. 2022)."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig, PeftConfig
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from dti_repro.adapters.files import weights_of
from dti_repro.adapters.folder import DIFFUSERS_LORA, adapter_folder
from dti_repro.adapters.peft import PeftAdapter
from dti_repro.artifacts.embedding import write_tensors
from dti_repro.config.values import Targets
from dti_repro.losses.objectives import Objective


class LoRA(PeftAdapter):
    """W + alpha / rank B A on every target. B starts at zero, A at normal numbers of deviation 1 / rank (as in the
    published code of Lee et al. 2024 and Kim et al. 2025). alpha None: the rank."""

    def __init__(
        self,
        rank: PositiveInt,
        alpha: PositiveFloat | None,
        targets: Targets,
        lr: PositiveFloat,
        weight_decay: NonNegativeFloat,
        objective: Objective,
    ) -> None:
        super().__init__(targets, lr, weight_decay, objective)
        self.rank = rank
        self.alpha = rank if alpha is None else alpha

    def config(self) -> PeftConfig:
        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets), init_lora_weights="gaussian"
        )

    def save(self, embedding: Path) -> dict[str, str]:
        """Write the weights in diffusers' format, too."""
        shape = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": sorted(self.targets)}
        metadata = json.dumps({f"{self._part}.{key}": value for key, value in shape.items()}, sort_keys=True)
        weights = {n.replace("base_model.model", self._part, 1): w for n, w in weights_of(self._model).items()}
        file = adapter_folder(embedding) / DIFFUSERS_LORA
        write_tensors(file, weights, {"format": "pt", "lora_adapter_metadata": metadata})
        return super().save(embedding)
