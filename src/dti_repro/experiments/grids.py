"""What an experiment's rows drew of one subject, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dti_repro.data.concept import Concept
from dti_repro.data.photos import load_photo
from dti_repro.experiments.figures import Grid
from dti_repro.experiments.page import Sheet
from dti_repro.experiments.runner import ExperimentRun, RowState
from dti_repro.inference.image_folder import ImageFolder


def comparison(concept: Concept, states: Sequence[RowState]) -> Grid:
    """A row for each row that draws, a column for each prompt, with the first training seed and the first image seed:
    nothing is chosen by its looks."""
    drawn = {state.spec.label: _of(concept, state.image_folders) for state in states if state.image_folders}
    images = next(iter(drawn.values())).manifest.images
    shown = [image for image in images if image.seed == images[0].seed]
    return Grid(
        [image.template.replace("{}", concept.placeholder) for image in shown],
        {
            label: [load_photo(image_folder.path / image.file) for image in shown]
            for label, image_folder in drawn.items()
        },
        [load_photo(photo) for photo in concept.images],
        f"{concept.placeholder}, from its references; the word started as '{concept.initializer}'",
    )


def sheets(plan: ExperimentRun, states: Sequence[RowState]) -> list[Sheet]:
    """The pictures of every subject with the first training seed and the first image seed."""
    first = plan.seeds()[0]
    found: dict[tuple[str, ...], dict[str, dict[str, Path]]] = {}
    for state in states:
        for image_folder in state.image_folders:
            for image in image_folder.manifest.images:
                if image.seed == first:
                    prompts = found.setdefault(image.concepts, {})
                    prompts.setdefault(image.template, {}).setdefault(state.spec.name, image_folder.path / image.file)
    return [
        Sheet(" and ".join(names), [photo for name in names for photo in plan.concepts[name].images], prompts)
        for names, prompts in found.items()
    ]


def _of(concept: Concept, image_folders: Sequence[ImageFolder]) -> ImageFolder:
    return next(
        image_folder for image_folder in image_folders if concept.name in image_folder.manifest.images[0].concepts
    )
