"""Measure and draw what the norm of a word's vector does inside a text encoder.

Everything but the text scores is computed by the text encoder alone, in float32 on the CPU; `picture.norms` also draws.
A CSV that is there and was made of the same inputs is not computed again; the figures and the page always are.
"""

from __future__ import annotations

import shlex

from omegaconf import DictConfig

from dti_repro.experiments.mechanism.inputs import Inputs
from dti_repro.launch.command import command
from dti_repro.launch.sweep import typed_overrides


@command("mechanism")
def main(cfg: DictConfig) -> None:
    """Write what is missing of the measurements, and the page."""
    inputs = Inputs.of(cfg)  # which refuses bad input before anything heavy is imported
    from dti_repro.experiments.mechanism.study import study

    page = study(inputs, shlex.join(["dti", "mechanism", *typed_overrides()]))
    print(f"page: {page}")


if __name__ == "__main__":
    main()
