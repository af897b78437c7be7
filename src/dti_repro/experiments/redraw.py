"""Every figure of results that is made of a CSV, drawn again."""

from __future__ import annotations

from pathlib import Path

from dti_repro.errors import InputError
from dti_repro.experiments import front_figure, path_figure, trajectories
from dti_repro.experiments.mechanism.part import read_part
from dti_repro.experiments.mechanism.study import PARTS, RECORD
from dti_repro.experiments.style import save


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of a folder of results, as PNG and PDF, and return their paths without the suffix."""
    drawn = []
    if front_figure.read_experiment(folder) and (folder / "table.csv").is_file():
        save(front_figure.draw_stored(folder), folder / front_figure.NAME)
        drawn.append(folder / front_figure.NAME)
    if trajectories.has_snapshots(folder):
        save(trajectories.write_trajectories(folder), folder / trajectories.NAME)
        drawn.append(folder / trajectories.NAME)
    if (folder / f"{path_figure.NAME}.csv").is_file():
        save(path_figure.draw(path_figure.read(folder)), folder / path_figure.NAME)
        drawn.append(folder / path_figure.NAME)
    if (folder / RECORD).is_file():
        for name, part in PARTS.items():
            path = folder / f"{name}.csv"
            table = read_part(part, path) if path.is_file() else ()
            if len(table):
                save(part.draw(table), folder / name)
                drawn.append(folder / name)
    return drawn


def redraw_all(root: Path) -> list[Path]:
    """Draw the figures of all folders of results. InputError where there is none."""
    drawn = [path for folder in sorted(root.glob("*/")) for path in redraw(folder)]
    if not drawn:
        raise InputError(f"{root} has no results with such a figure: give the folder that the benchmarks wrote to")
    return drawn
