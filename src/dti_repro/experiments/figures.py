"""Figures of an experiment: its images, image score against text score, and norms over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dti_repro.artifacts.image_grid import Grid
from dti_repro.data.photos import load_photo
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.mechanism.style import panels, save
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.tables import Row

WIDTH = 7.2  # inches


def comparison(run: ExperimentRun, results: Sequence[RowResult]) -> Grid:
    """Return the images of the first subject, or of the first set of subjects that a prompt names, with the first image
    seed: a row for each row that has images, a column for each prompt. Of rows that are snapshots there are those of
    the last step. Nothing is selected by its looks."""
    seed, last = run.seeds()[0], max(run.experiment.snapshots, default=None)
    drawn = [
        (result.spec.label, image, folder.path / image.file)
        for result in results
        for folder in result.image_folders
        for image in folder.manifest.images
        if image.seed == seed and result.spec.snapshot in (None, last)
    ]
    names = drawn[0][1].concepts
    rows: dict[str, dict[str, Path]] = {}  # label -> prompt -> image of the first training seed
    for label, image, path in drawn:
        if image.concepts == names:
            rows.setdefault(label, {}).setdefault(image.template, path)
    concept = run.concepts[names[0]]
    title = f"{concept.placeholder} and its reference photos; initializer '{concept.initializer}'"
    columns = [prompt.replace("{}", concept.placeholder) for prompt in next(iter(rows.values()))]
    references = [load_photo(photo) for name in names for photo in run.concepts[name].images]
    images = {label: [load_photo(path) for path in by_prompt.values()] for label, by_prompt in rows.items()}
    return Grid(columns, images, references, title)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points that no other point beats on one axis without losing on the other, in the order of
    the first axis."""
    best = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


def save_front(path: Path, experiment: Experiment, rows: Sequence[Row]) -> None:
    """Plot mean image score against mean text score with 95% t intervals, and join the rows that no other row beats.

    Rows without one of the two (real references have no text score) are left out. Bounds are hollow and never joined.
    <path>.png and .pdf are written; table.csv has the numbers.
    """
    image, text = experiment.image, experiment.text[0]
    bounds = [row.name for row in experiment.rows if row.bound]
    means: dict[str, tuple[float, float]] = {}
    figure, ((axes,),) = panels([""], width=WIDTH)
    for row in rows:
        x, y = row.interval(text), row.interval(image)
        if 0 in (x.n, y.n):
            continue
        style = {"markerfacecolor": "white", "color": "grey"} if row.name in bounds else {}
        bars = {"xerr": x.half_width, "yerr": y.half_width} if x.n > 1 else {}
        axes.errorbar(x.mean, y.mean, fmt="o", markersize=5, elinewidth=0.6, capsize=2, **bars, **style)
        axes.annotate(row.label, (x.mean, y.mean), xytext=(4, 4), textcoords="offset points", fontsize=7)
        if row.name not in bounds:
            means[row.name] = (x.mean, y.mean)
    joined = [means[name] for name in front(means)]
    axes.plot([x for x, _ in joined], [y for _, y in joined], color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel=f"text ({experiment.metrics[text]})", ylabel=f"image ({experiment.metrics[image]})")
    save(figure, path)


def save_norms(path: Path, norms: Mapping[str, Sequence[float]], title: str) -> None:
    """Plot the norm by step of each name, and write <path>.png and .pdf."""
    figure, ((axes,),) = panels([title], width=WIDTH)
    for name, values in norms.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.8)
    axes.set(xlabel="training step", ylabel="norm of the token vector", yscale="log")
    axes.legend()
    save(figure, path)
