"""Figures of an experiment: its images, and norms over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dti_repro.artifacts.image_grid import Grid
from dti_repro.data.photos import load_photo
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.style import panels, save

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


def save_norms(path: Path, norms: Mapping[str, Sequence[float]], title: str) -> None:
    """Plot the norm by step of each name, and write <path>.png and .pdf."""
    figure, ((axes,),) = panels([title], width=WIDTH)
    for name, values in norms.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.8)
    axes.set(xlabel="training step", ylabel="norm of the token vector", yscale="log")
    axes.legend()
    save(figure, path)
