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
    from dti_repro.experiments.redraw import redraw_all  # pandas and matplotlib load with it

    print("\n".join(f"{path}.png .pdf" for path in redraw_all(results)))


if __name__ == "__main__":
    main()
