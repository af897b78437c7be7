"""What an experiment's rows drew of one subject, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dti_repro.concepts.concept import Concept
from dti_repro.concepts.photos import load_photo
from dti_repro.generation import Gallery
from dti_repro.pipeline import Plan, RowState
from dti_repro.results.figures import Grid
from dti_repro.results.page import Sheet


def comparison(concept: Concept, states: Sequence[RowState]) -> Grid:
    """A row for each row that draws, a column for each prompt, with the first training seed and the first image seed:
    nothing is chosen by its looks."""
    drawn = {state.spec.label: _of(concept, state.galleries) for state in states if state.galleries}
    images = next(iter(drawn.values())).manifest.images
    shown = [image for image in images if image.seed == images[0].seed]
    return Grid(
        [image.template.replace("{}", concept.placeholder) for image in shown],
        {label: [load_photo(gallery.folder / image.file) for image in shown] for label, gallery in drawn.items()},
        [load_photo(photo) for photo in concept.images],
        f"{concept.placeholder}, from its references; the word started as '{concept.initializer}'",
    )


def sheets(plan: Plan, states: Sequence[RowState]) -> list[Sheet]:
    """The pictures of every subject with the first training seed and the first image seed."""
    first = plan.seeds()[0]
    found: dict[tuple[str, ...], dict[str, dict[str, Path]]] = {}
    for state in states:
        for gallery in state.galleries:
            for image in gallery.manifest.images:
                if image.seed == first:
                    prompts = found.setdefault(image.concepts, {})
                    prompts.setdefault(image.template, {}).setdefault(state.spec.name, gallery.folder / image.file)
    return [
        Sheet(" and ".join(names), [photo for name in names for photo in plan.concepts[name].images], prompts)
        for names, prompts in found.items()
    ]


def _of(concept: Concept, galleries: Sequence[Gallery]) -> Gallery:
    return next(gallery for gallery in galleries if concept.name in gallery.manifest.images[0].concepts)
