"""Draw the figures of results again, from the CSVs beside them.

Each is written as PNG and PDF. Nothing is trained, drawn by a model or scored.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dti_repro.errors import InputError
from dti_repro.launch.command import command


@command("figures")
def main(cfg: DictConfig) -> None:
    """Draw the figures of each folder of results. InputError where there are no results."""
    results = Path(cfg.results)
    if not results.is_dir():
        raise InputError(f"results={cfg.results} is no folder: give the one that the benchmarks wrote to")
    from dti_repro.experiments.figures import redraw  # pandas and matplotlib load with it

    drawn = [path for folder in sorted(results.glob("*/")) for path in redraw(folder)]
    if not drawn:
        raise InputError(f"{results} has no results with such a figure: give the folder that the benchmarks wrote to")
    print("\n".join(f"{path}.png .pdf" for path in drawn))


if __name__ == "__main__":
    main()
