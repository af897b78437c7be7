"""Interpolate between the learned words of two subjects: how evenly the images change, and how many show the class of
one of the two.

A step is the angle between the features of two images that follow each other, for one prompt and image seed. The
features are those of the experiment's image score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from PIL import Image

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.image_grid import Grid
from dti_repro.artifacts.run_dir import config_hash
from dti_repro.config import build, target
from dti_repro.data.concept import Concept
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.spec import InterpolationSpec
from dti_repro.experiments.stages import RowResult
from dti_repro.inference.generator import draw_missing
from dti_repro.inference.image_folder import ImageFolder
from dti_repro.inference.interpolation import prepare_interpolation
from dti_repro.metrics.catalogue import metric_config, metric_identity

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("path", "a", "b", "pair", "seed", "length", "spread", "largest", "in_class")
FORMAT = 1  # of the measurements: a higher one makes an old paths.csv be computed again


@dataclass(frozen=True)
class PairInterpolation:
    """The points between the words of two subjects, which one training seed taught."""

    spec: InterpolationSpec
    a: Concept
    b: Concept
    seed: int
    points: Sequence[ImageFolder]

    @property
    def pair(self) -> str:
        return "same class" if self.a.class_word == self.b.class_word else "different classes"

    def pictures(self) -> list[list[Image.Image]]:
        """Return the images of each point: one for each prompt and image seed."""
        files = [image.file for image in self.points[0].manifest.images]
        return [[load_photo(folder.path / file) for file in files] for folder in self.points]


def check_paths(run: ExperimentRun) -> None:
    """Raise InputError for what cannot be drawn or measured, before anything is trained."""
    experiment, paths = run.experiment, run.experiment.paths
    if len(run.concepts) < 2:
        raise InputError(f"experiment '{experiment.name}': paths lie between subjects, and there is one only")
    if not isinstance(metric_config(experiment.image).get("encoder"), dict):
        raise InputError(f"experiment '{experiment.name}': paths need an image score with an encoder of images")
    if paths.reader is not None:
        metric_config(paths.reader)
    if any(prompt.names for prompt in run.prompts().prompts):
        raise InputError(f"experiment '{experiment.name}': paths need prompts with {{}}, not with names")
    from dti_repro.adapters.base import Adapter
    from dti_repro.methods.base import DerivedMethod, TokenMethod

    for row in (row for row in experiment.rows if row.name in {way.row for way in paths.ways}):
        for cfg in run.train_configs(row):
            adapted = target(cfg.adapter._target_, Adapter) is not Adapter
            if adapted or target(cfg.method._target_, TokenMethod | DerivedMethod).depends_on:
                raise InputError(
                    f"experiment '{experiment.name}', row '{row.name}': paths lie between vectors that are the same "
                    "for all layers and timesteps, learned without an adapter"
                )


def write_paths(folder: Path, run: ExperimentRun, results: Sequence[RowResult], accelerator: str) -> None:
    """Draw the missing images, and write paths.csv, paths.json and paths_strip.png; nothing that is there already is
    computed again."""
    ways = list(_ways(run, results))
    record = {"digest": _digest(run, ways)}
    known = folder / "paths.json"
    whole = all(file.is_file() for file in (folder / "paths.csv", folder / "paths_strip.png", known))
    if whole and read_json(known, "remove it, and the paths are measured again") == record:
        return
    images = [point for way in ways for point in way.points]
    print(f"paths: {sum(len(point.missing()) for point in images)} images", flush=True)
    draw_missing(images, run.generate_config())
    from pandas import DataFrame

    from dti_repro.experiments.tables import write_csv

    known.unlink(missing_ok=True)  # until all three are of this record
    write_csv(folder / "paths.csv", DataFrame(_measured(run, ways, accelerator), columns=COLUMNS))
    _strip(run, ways).save(folder / "paths_strip.png", wrap=run.experiment.paths.points)
    write_json(known, record)


def _ways(run: ExperimentRun, results: Sequence[RowResult]) -> Iterator[PairInterpolation]:
    """Yield each way between each pair of subjects, for each training seed. The embeddings of its points are written
    where they are missing."""
    folders = {result.spec.name: result.folders for result in results}
    cfg = run.generate_config()
    OmegaConf.set_struct(cfg, False)
    cfg.update({"sampling_steps": cfg.steps, "steps": run.experiment.paths.points, "out": None})
    for spec in run.experiment.paths.ways:
        for seed_folder, learned in groupby(folders[spec.row], key=lambda folder: folder.seed_folder):
            seed = int(seed_folder.name.removeprefix("seed_"))
            for a, b in combinations(sorted(learned, key=lambda folder: folder.name), 2):
                cfg.update({"a": str(a.path), "b": str(b.path), "mode": spec.mode})
                points = prepare_interpolation(cfg).image_folders
                yield PairInterpolation(spec, run.concepts[a.name], run.concepts[b.name], seed, points)


def _digest(run: ExperimentRun, ways: Sequence[PairInterpolation]) -> str:
    """Return a digest of all that the numbers and the strip depend on."""
    content = {
        "format": FORMAT,
        "points": [str(point.path) for way in ways for point in way.points],
        "ways": [[spec.name, spec.row, spec.label] for spec in run.experiment.paths.ways],
        "classes": {concept.name: concept.class_word for concept in run.concepts.values()},
        "title": run.experiment.title,
        "metrics": [metric_identity(metric_config(name)) for name in _metrics(run)],
    }
    return config_hash(content)


def _metrics(run: ExperimentRun) -> list[str]:
    """Return the image score, and the reader if there is one."""
    return [run.experiment.image, *filter(None, [run.experiment.paths.reader])]


def _measured(run: ExperimentRun, ways: Sequence[PairInterpolation], accelerator: str) -> list[tuple[Any, ...]]:
    """Return COLUMNS of each way. The last four are means over prompts and image seeds of `evenness`, and the share of
    the images between the ends that show the class of one of them, None without a reader."""
    from torch import maximum, stack

    from dti_repro.backbones.load import device_of
    from dti_repro.metrics.base import ImageMetric, Sample

    metrics = [build(metric_config(name), ImageMetric).to(device_of(accelerator)) for name in _metrics(run)]
    encoder, readers = metrics[0].encoder, metrics[1:]
    lines = []
    for way in ways:
        pictures = way.pictures()
        inside = [image for point in pictures[1:-1] for image in point]
        in_class = None
        for reader in readers:
            asked = [Sample(way.a.name, "", {"class": end.class_word}) for end in (way.a, way.b)]
            found = [reader.score(inside, [sample] * len(inside)) for sample in asked]
            in_class = float(maximum(*found).nanmean())
        even = evenness(stack([encoder.images(point) for point in pictures]))
        lines.append((way.spec.name, way.a.name, way.b.name, way.pair, way.seed, *even.values(), in_class))
    return lines


def evenness(features: Tensor) -> dict[str, float]:
    """Return, of (points, images, features), means over the images: the length of the way (radians), the spread of its
    steps (their standard deviation over their mean) and the largest step (as a share of the length). Where no image
    differs from the one before it, all steps count as equal."""
    from torch import full_like
    from torch.nn.functional import normalize

    unit = normalize(features.double(), dim=-1)
    steps = (unit[1:] * unit[:-1]).sum(dim=-1).clamp(-1, 1).arccos()  # (points - 1, images)
    steps = steps.where(steps.sum(dim=0) > 0, full_like(steps, 1e-12))
    length = steps.sum(dim=0)
    found = {
        "length": length,
        "spread": steps.std(dim=0, correction=0) / steps.mean(dim=0),
        "largest": steps.amax(dim=0) / length,
    }
    return {name: float(values.mean()) for name, values in found.items()}


def _strip(run: ExperimentRun, ways: Sequence[PairInterpolation]) -> Grid:
    """Return the images of the first pair of one class and the first of two, by name, of the first training seed, first
    prompt and first image seed. Nothing is selected by its looks."""
    first: dict[tuple[str, str], PairInterpolation] = {}
    for way in ways:
        first.setdefault((way.spec.name, way.pair), way)
    rows = {
        f"{way.spec.label}, {way.a.name} to {way.b.name}": [point[0] for point in way.pictures()]
        for way in first.values()
    }
    last = run.experiment.paths.points - 1
    return Grid([f"{k / last:.2f}" for k in range(last + 1)], rows, title=run.experiment.title)
