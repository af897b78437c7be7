"""Figures of an experiment: its images, image score against text score, and norms over training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dti_repro.artifacts.files import atomic_write
from dti_repro.artifacts.image_grid import Grid
from dti_repro.data.photos import load_photo
from dti_repro.experiments.mechanism.style import FORMATS
from dti_repro.experiments.runner import ExperimentRun, RowResult
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sheet:
    """The images of one subject, or of several in one image, with the first training seed and the first image seed."""

    concepts: Sequence[str]
    references: Sequence[Path]
    images: Mapping[str, Mapping[str, Path]]  # prompt -> row name -> image


def sheets(run: ExperimentRun, results: Sequence[RowResult]) -> list[Sheet]:
    """Return a sheet for each subject, and for each set of subjects that a prompt names."""
    seed = run.seeds()[0]
    found: dict[tuple[str, ...], dict[str, dict[str, Path]]] = {}
    for result in results:
        for folder in result.image_folders:
            for image in folder.manifest.images:
                if image.seed == seed:
                    by_row = found.setdefault(image.concepts, {}).setdefault(image.template, {})
                    by_row.setdefault(result.spec.name, folder.path / image.file)
    return [
        Sheet(names, [photo for name in names for photo in run.concepts[name].images], images)
        for names, images in found.items()
    ]


def comparison(run: ExperimentRun, results: Sequence[RowResult]) -> Grid:
    """Return the images of the first subject: a row for each row that has images, a column for each prompt. Nothing is
    selected by its looks."""
    sheet = sheets(run, results)[0]
    concept = run.concepts[sheet.concepts[0]]
    rows = {
        result.spec.label: [load_photo(by_row[result.spec.name]) for by_row in sheet.images.values()]
        for result in results
        if result.image_folders
    }
    title = f"{concept.placeholder} and its reference photos; initializer '{concept.initializer}'"
    columns = [prompt.replace("{}", concept.placeholder) for prompt in sheet.images]
    return Grid(columns, rows, [load_photo(photo) for photo in sheet.references], title)


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
    A PDF is written beside the PNG; table.csv has the numbers.
    """
    image, text = experiment.image, experiment.text[0]
    bounds = [row.name for row in experiment.rows if row.bound]
    means: dict[str, tuple[float, float]] = {}
    labels = f"text ({experiment.metrics[text]})", f"image ({experiment.metrics[image]})"
    with _axes(path, *labels, suffixes=tuple(FORMATS)) as axes:
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


def save_norms(path: Path, norms: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str) -> Path:
    """Plot a line of (steps, norms) for each name, and return the path."""
    with _axes(path, "training step", "norm of the token vector") as axes:
        for name, (steps, values) in norms.items():
            axes.plot(steps, values, label=name, linewidth=1.8)
        axes.set(title=title, yscale="log")
        axes.legend()
    return path


@contextmanager
def _axes(path: Path, x_label: str, y_label: str, suffixes: Sequence[str] = (".png",)) -> Iterator[Axes]:
    """Yield the axes of a new figure, and write it with these suffixes; equal figures give equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    try:
        yield axes
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.3)
        for suffix in suffixes:
            with atomic_write(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=FORMATS[suffix])
    finally:
        pyplot.close(figure)
