"""Orthogonal fine-tuning (Qiu et al. 2023)."""

from __future__ import annotations

from peft import OFTConfig, PeftConfig
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from dti_repro.adapters.peft import PeftAdapter
from dti_repro.config.values import Targets
from dti_repro.losses.objectives import Objective


class OFT(PeftAdapter):
    """W R on every target, R of r orthogonal blocks along the diagonal that start at the identity; r divides the
    width of each target's input."""

    def __init__(
        self, r: PositiveInt, targets: Targets, lr: PositiveFloat, weight_decay: NonNegativeFloat, objective: Objective
    ) -> None:
        super().__init__(targets, lr, weight_decay, objective)
        self.r = r

    def config(self) -> PeftConfig:
        return OFTConfig(r=self.r, oft_block_size=0, target_modules=list(self.targets))
