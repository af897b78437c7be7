"""Low-rank adaptation (Hu et al. 2022)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import LoraConfig, PeftConfig
from torch import Tensor

from dti_repro.adapters.folder import DIFFUSERS_LORA
from dti_repro.adapters.peft import PeftAdapter, check_above, check_whole
from dti_repro.artifacts.embedding import write_tensors
from dti_repro.losses.objectives import Objective


class LoRA(PeftAdapter):
    """W + alpha / rank B A on every target. B starts at zero, A at normal numbers of deviation 1 / rank (as in the
    published code of Lee et al. 2024 and Kim et al. 2025). alpha None: the rank."""

    def __init__(
        self,
        rank: int,
        alpha: float | None,
        targets: Sequence[str],
        lr: float,
        weight_decay: float,
        objective: Objective,
    ) -> None:
        super().__init__(targets, lr, weight_decay, objective)
        self.rank = check_whole("adapter.rank", rank)
        self.alpha = rank if alpha is None else check_above("adapter.alpha", alpha)

    def config(self) -> PeftConfig:
        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets), init_lora_weights="gaussian"
        )

    def save_for_diffusers(self, folder: Path, weights: Mapping[str, Tensor], part: str) -> None:
        shape = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": sorted(self.targets)}
        metadata = json.dumps({f"{part}.{key}": value for key, value in shape.items()}, sort_keys=True)
        named = {f"{part}.{name}": rows for name, rows in weights.items()}
        write_tensors(folder / DIFFUSERS_LORA, named, {"format": "pt", "lora_adapter_metadata": metadata})
