"""What lies between the learned words of two subjects: how evenly the images change on the way, and whether they stay
what the ends are.

A step is the angle between the features of two images that follow each other, for one prompt and image seed. The
features are those of the experiment's image score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.image_grid import Grid
from dti_repro.artifacts.run_dir import ConceptFolder, config_hash
from dti_repro.config import build
from dti_repro.data.concept import Concept
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError
from dti_repro.experiments.runner import ExperimentRun, RowResult
from dti_repro.experiments.spec import PathSpec
from dti_repro.inference.generator import draw
from dti_repro.inference.image_folder import GenerationConfig
from dti_repro.inference.interpolation import Interpolation, prepare_interpolation
from dti_repro.metrics.catalogue import metric_config, metric_identity

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("path", "a", "b", "pair", "seed", "length", "spread", "largest", "in_class")
FORMAT = 1  # of the measurements: a higher one makes an old paths.csv be computed again
Way = tuple[PathSpec, ConceptFolder, ConceptFolder]


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


def images_between(run: ExperimentRun) -> int:
    """Return how many images all ways have together, both ends of each included."""
    paths, n = run.experiment.paths, len(run.concepts)
    drawn = paths.points * len(run.prompts().prompts) * len(run.seeds())
    return len(paths.ways) * n * (n - 1) // 2 * drawn * max(1, len(run.experiment.training_seeds))


def write_paths(folder: Path, run: ExperimentRun, results: Sequence[RowResult], accelerator: str) -> None:
    """Draw the missing images, and write paths.csv, paths.json and paths_strip.png; nothing that is there already is
    computed again."""
    ways = list(_ways(run, results))
    drawn = [_prepare(run, way) for way in ways]
    record = {"digest": _digest(run, drawn)}
    known = folder / "paths.json"
    whole = (folder / "paths.csv").is_file() and (folder / "paths_strip.png").is_file() and known.is_file()
    if whole and read_json(known, "remove it, and the paths are measured again") == record:
        return
    cfg = run.generate_config()
    images = [points for interpolation in drawn for points in interpolation.image_folders]
    print(f"paths: {sum(len(points.missing()) for points in images)} images", flush=True)
    draw(images, cfg, GenerationConfig.of(cfg))
    measure = _Measure(run, accelerator)
    from pandas import DataFrame

    from dti_repro.experiments.tables import write_csv

    lines = [_line(run, way, measure(run, way, found)) for way, found in zip(ways, drawn, strict=True)]
    write_csv(folder / "paths.csv", DataFrame(lines, columns=COLUMNS))
    _strip(run, ways, drawn).save(folder / "paths_strip.png", wrap=run.experiment.paths.points)
    write_json(known, record)


def _ways(run: ExperimentRun, results: Sequence[RowResult]) -> Iterator[Way]:
    """Yield each way between each pair of subjects, for each training seed."""
    folders = {result.spec.name: result.folders for result in results}
    for way in run.experiment.paths.ways:
        by_seed: dict[Path, list[ConceptFolder]] = {}
        for folder in folders[way.row]:
            by_seed.setdefault(folder.seed_folder, []).append(folder)
        for learned in by_seed.values():
            for a, b in combinations(sorted(learned, key=lambda folder: folder.name), 2):
                yield way, a, b


def _prepare(run: ExperimentRun, way: Way) -> Interpolation:
    """Return the points of a way, whose embeddings are written where they are missing."""
    spec, a, b = way
    cfg: DictConfig = OmegaConf.merge(run.generate_config())
    OmegaConf.set_struct(cfg, False)
    ends = {"a": str(a.path), "b": str(b.path), "mode": spec.mode, "out": None}
    cfg.update({**ends, "sampling_steps": cfg.steps, "steps": run.experiment.paths.points})
    return prepare_interpolation(cfg)


def _digest(run: ExperimentRun, drawn: Sequence[Interpolation]) -> str:
    """Return a digest of all that the numbers depend on."""
    experiment = run.experiment
    metrics = [experiment.image, *filter(None, [experiment.paths.reader])]
    points = [str(points.path) for found in drawn for points in found.image_folders]
    names = [[way.name, way.row] for way in experiment.paths.ways]
    identities = [metric_identity(metric_config(name)) for name in metrics]
    return config_hash({"format": FORMAT, "points": points, "ways": names, "metrics": identities})


def _line(run: ExperimentRun, way: Way, measured: Mapping[str, float]) -> list[Any]:
    spec, a, b = way
    seed = int(a.seed_folder.name.removeprefix("seed_"))
    return [spec.name, a.name, b.name, _pair(run.concepts[a.name], run.concepts[b.name]), seed, *measured.values()]


def _pair(a: Concept, b: Concept) -> str:
    return "same class" if a.class_word == b.class_word else "different classes"


class _Measure:
    """The encoder of the image score and the reader, loaded once."""

    def __init__(self, run: ExperimentRun, accelerator: str) -> None:
        from dti_repro.backbones.load import device_of
        from dti_repro.metrics.base import ImageMetric

        experiment = run.experiment
        names = [name for name in (experiment.image, experiment.paths.reader) if name is not None]
        metrics = [build(metric_config(name), ImageMetric).to(device_of(accelerator)) for name in names]
        self.encoder = metrics[0].encoder
        self.reader = metrics[1] if len(metrics) > 1 else None

    def __call__(self, run: ExperimentRun, way: Way, drawn: Interpolation) -> dict[str, float]:
        """Return the last four of COLUMNS: means over prompts and image seeds of `evenness`, and the share of the
        images between the ends that show the class of one of them, empty without a reader."""
        from torch import stack

        manifest = drawn.image_folders[0].manifest.images
        images = [[load_photo(points.path / image.file) for image in manifest] for points in drawn.image_folders]
        features = stack([self.encoder.images(row) for row in images])
        inside = [image for row in images[1:-1] for image in row]
        return {**evenness(features), "in_class": self._in_class(run, way, inside)}

    def _in_class(self, run: ExperimentRun, way: Way, images: Sequence[Any]) -> float | None:
        from torch import maximum

        from dti_repro.metrics.base import Sample

        if self.reader is None:
            return None
        words = [run.concepts[end.name].class_word for end in way[1:]]
        asked = [[Sample(way[1].name, "", {"class": word})] * len(images) for word in words]
        return float(maximum(*(self.reader.score(images, samples) for samples in asked)).mean())


def evenness(features: Tensor) -> dict[str, float]:
    """Return, of (points, images, features), means over the images: the length of the way (radians), the spread of its
    steps (their standard deviation over their mean) and the largest step (as a share of the length). A way without
    any change is even."""
    from torch import full_like
    from torch.nn.functional import normalize

    unit = normalize(features.double(), dim=-1)
    steps = (unit[1:] * unit[:-1]).sum(dim=-1).clamp(-1, 1).arccos()  # (points - 1, images)
    steps = steps.where(steps.sum(dim=0) > 0, full_like(steps, 1e-12))
    spread = steps.std(dim=0, correction=0) / steps.mean(dim=0)
    largest = steps.amax(dim=0) / steps.sum(dim=0)
    return {name: float(values.mean()) for name, values in (("length", steps.sum(dim=0)), ("spread", spread))} | {
        "largest": float(largest.mean())
    }


def _strip(run: ExperimentRun, ways: Sequence[Way], drawn: Sequence[Interpolation]) -> Grid:
    """Return the images of the first pair of one class and the first of two, by name, of the first training seed, first
    prompt and first image seed. Nothing is selected by its looks."""
    rows, seen = {}, set()
    for (spec, a, b), found in zip(ways, drawn, strict=True):
        kind = _pair(run.concepts[a.name], run.concepts[b.name])
        if (spec.name, kind) in seen:
            continue
        seen.add((spec.name, kind))
        image = found.image_folders[0].manifest.images[0]
        pictures = [load_photo(points.path / image.file) for points in found.image_folders]
        rows[f"{spec.label}, {a.name} to {b.name}"] = pictures
    last = run.experiment.paths.points - 1
    return Grid([f"{k / last:.2f}" for k in range(last + 1)], rows, title=run.experiment.title)
