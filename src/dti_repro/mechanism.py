"""Measure and draw what the norm of a word's vector does inside a text encoder.

Everything but the text scores is computed by the text encoder alone, in float32 on the CPU; `picture.norms` also draws.
A CSV that is there and was made of the same inputs is not computed again; the figures and the page always are.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.experiments.mechanism.inputs import Inputs
from dti_repro.launch.command import command
from dti_repro.launch.sweep import typed_overrides


def mechanism(cfg: DictConfig, overrides: list[str]) -> Path:
    """Write what is missing, and return the page. overrides: as typed, for the page."""
    inputs = Inputs.of(cfg)  # which refuses bad input before anything heavy is imported
    from dti_repro.experiments.mechanism.study import study

    page = study(inputs, shlex.join(["dti", "mechanism", *overrides]))
    print(f"page: {page}")
    return page


@command("mechanism")
def main(cfg: DictConfig) -> None:
    mechanism(cfg, list(typed_overrides(HydraConfig.get())))


if __name__ == "__main__":
    main()
