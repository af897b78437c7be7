"""Make the table of an experiment: train, generate and score what is missing.

The results are in <out>/<experiment>/: table.md, report.html with the images, and others. A finished experiment takes
seconds.
"""

from __future__ import annotations

from omegaconf import DictConfig

from dti_repro.experiments.benchmark import benchmark, stages
from dti_repro.launch.command import command


@command("benchmark", stages)
def main(cfg: DictConfig) -> int:
    return benchmark(cfg)


if __name__ == "__main__":
    main()
