"""``python -m dti_repro.benchmark experiment=<name>``: train, generate, evaluate, table, as far as missing.

The result is <out>/<experiment>/table.md and the files beside it (report.html shows the pictures, too); a finished
experiment is tabulated in seconds.
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
