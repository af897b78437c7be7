"""Low-rank adaptation (Hu et al. 2022)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from peft import LoraConfig, PeftConfig
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dti_repro.adapters.folder import DIFFUSERS_LORA
from dti_repro.adapters.peft import Files, PeftAdapter
from dti_repro.config.values import Targets
from dti_repro.losses.objectives import Objective


class LoRA(PeftAdapter):
    """W + alpha / rank B A on every target, B starting at zero and A at normal numbers of deviation 1 / rank (as
    in the published code of Lee et al. 2024 and Kim et al. 2025). alpha None: the rank."""

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

    def other_formats(self, weights: Mapping[str, Tensor], part: str) -> Files:
        """diffusers' own, which its pipelines' load_lora_weights takes."""
        shape = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": sorted(self.targets)}
        metadata = json.dumps({f"{part}.{key}": value for key, value in shape.items()}, sort_keys=True)
        named = {f"{part}.{name}": rows for name, rows in weights.items()}
        return {DIFFUSERS_LORA: (named, {"format": "pt", "lora_adapter_metadata": metadata})}
