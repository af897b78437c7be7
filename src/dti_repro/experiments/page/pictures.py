"""The pictures of a page: what each row drew, the photos beside it, and how a word was learned."""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from dti_repro.artifacts.manifest import NAME, Manifest, ManifestImage
from dti_repro.artifacts.scores import read_scores
from dti_repro.data.photos import load_photo
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.stages import RowResult
from dti_repro.inference.image_folder import ImageFolder

BUDGET = 12_000_000  # characters that the pictures of a page may have
SIDES = (512, 384, 256, 160)  # px; larger pictures are shown as thumbnails of the largest of these that fits the budget
CHARACTERS = 0.16  # of a thumbnail, for each of its pixels
SMALL = SIDES[-1]  # px; smaller pictures keep their size, and the page enlarges them without smoothing
PHOTOS = 5  # of each subject


@dataclass(frozen=True)
class Picture:
    """One drawn image. trained: the training seed of its word, if there is one; step: of a snapshot."""

    row: str
    concepts: tuple[str, ...]
    template: str
    trained: int | None
    seed: int
    path: Path
    scores: Mapping[str, float]  # metric -> value
    step: int = 0

    @property
    def place(self) -> tuple[str, tuple[str, ...], str, tuple[int | None, int]]:
        """Return row, subjects, prompt and both seeds: what a film has in common with a picture."""
        return self.row, self.concepts, self.template, (self.trained, self.seed)


def gallery(run: ExperimentRun, results: Sequence[RowResult], names: Sequence[str]) -> dict[str, Any]:
    """Return the pictures as plain content: a list for each picture, which refers to the lists beside it by position.

    names: of all rows, in their order. Pictures that do not fit into BUDGET are left out: later seeds before earlier
    ones, later prompts before earlier ones, and always those of all rows at once. InputError for an image that cannot
    be read.
    """
    drawn = [picture for result in results for picture in _drawn(result)]
    frames = [frame for result in results for frame in _frames(result)]
    if len({picture.trained for picture in drawn} - {None}) < 2:  # all have the same training seed, which is not shown
        drawn, frames = ([replace(picture, trained=None) for picture in some] for some in (drawn, frames))
    subjects = list(dict.fromkeys(picture.concepts for picture in drawn))
    prompts = list(dict.fromkeys(picture.template for picture in drawn))
    seeds = sorted({(p.trained, p.seed) for p in drawn}, key=lambda seed: (seed[0] or 0, seed[1]))
    groups: dict[tuple[int, int, int], list[Picture]] = defaultdict(list)  # one seed, prompt and subject of all rows
    for picture in drawn:
        _, subject, prompt, seed = picture.place
        groups[seeds.index(seed), prompts.index(prompt), subjects.index(subject)].append(picture)

    small = bool(drawn) and max(load_photo(drawn[0].path).size) < SMALL
    files = [[photo for name in some for photo in run.concepts[name].images[:PHOTOS]] for some in subjects]
    side = SMALL if small else _side(len(drawn) + len(frames) + sum(map(len, files)))
    photos = [[_encoded(photo, side) for photo in some] for some in files]
    left = BUDGET - sum(map(len, chain(*photos)))
    shown: list[list[Any]] = []
    positions: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for seed, prompt, subject in sorted(groups):
        group = groups[seed, prompt, subject]
        contents = [_encoded(picture.path, side) for picture in group]
        left -= sum(map(len, contents))
        if left < 0:
            break
        for picture, content in zip(group, contents, strict=True):
            position = positions[picture.place] = (names.index(picture.row), subject, prompt, seed)
            shown.append([*position, [picture.scores.get(metric) for metric in run.experiment.metrics], content])
    films: list[list[Any]] = []
    for frame in sorted(frames, key=lambda frame: frame.step):
        if left > 0 and frame.place in positions:
            films.append([*positions[frame.place], frame.step, _encoded(frame.path, side)])
            left -= len(films[-1][-1])
    return {
        "subjects": [{"names": some, "photos": of} for some, of in zip(subjects, photos, strict=True)],
        "prompts": prompts,
        "seeds": [f"seed {seed}" if t is None else f"training seed {t}, image seed {seed}" for t, seed in seeds],
        "image_seeds": [seed for _, seed in seeds],
        "pictures": shown,
        "films": films,
        "small": small,
        "left_out": len(drawn) - len(shown),
    }


def _drawn(result: RowResult) -> Iterator[Picture]:
    for folder, file in zip(result.image_folders, result.score_files, strict=False):  # references have no folders
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in read_scores(file.csv):
            values[row.file][row.metric].append(row.value)  # of each of its subjects
        for image in folder.manifest.images:
            scores = {metric: sum(of) / len(of) for metric, of in values[image.file].items()}
            yield _picture(result, folder, image, scores)


def _frames(result: RowResult) -> Iterator[Picture]:
    """Yield the images that `dti generate snapshot=<step>` drew of a row's words with the row's own settings; none for
    a row that is itself of a snapshot."""
    for folder in result.image_folders if result.cfgs and result.spec.snapshot is None else ():
        wanted = _settings(folder.manifest)
        for file in sorted(folder.path.parent.glob(f"*/{NAME}")):
            drawn = ImageFolder(file.parent, Manifest.read(file))
            step = drawn.manifest.generation.get("snapshot")
            if isinstance(step, int) and _settings(drawn.manifest) == wanted:
                for image in drawn.manifest.images:
                    if (drawn.path / image.file).is_file():
                        yield _picture(result, drawn, image, {}, step)


def _picture(
    result: RowResult, folder: ImageFolder, image: ManifestImage, scores: Mapping[str, float], step: int = 0
) -> Picture:
    found = re.fullmatch(r"seed_(-?\d+)", folder.path.parents[2].name)
    trained = int(found[1]) if found else None
    path = folder.path / image.file
    return Picture(result.spec.name, image.concepts, image.template, trained, image.seed, path, scores, step)


def _settings(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in manifest.generation.items() if key not in ("snapshot", "prompts", "seeds")}


def _side(count: int) -> int:
    """Return the largest side in px at which so many thumbnails fit."""
    return next((side for side in SIDES if count * side * side * CHARACTERS < BUDGET), SIDES[-1])


@cache
def _encoded(path: Path, side: int) -> str:
    """Return an image of at most `side` px as WebP in base64."""
    image = load_photo(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return webp(image, 90 if max(image.size) < SMALL else 80)


def webp(image: Image.Image, quality: int = 80) -> str:
    """Return an image as WebP in base64."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
