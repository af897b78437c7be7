"""Score the images of a run: one row for each image and metric, in files next to the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import user_path
from dti_repro.artifacts.lock import BusyError
from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.run_dir import check_name
from dti_repro.artifacts.scores import LEVELS, read_scores
from dti_repro.artifacts.tracking import tracking
from dti_repro.config import build
from dti_repro.data.concept import ConceptSet
from dti_repro.errors import InputError
from dti_repro.experiments.markdown import markdown
from dti_repro.launch.command import command
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import ScoreFile, generated, score


def chosen_metrics(metrics: str | list[str], sets: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return name -> yaml for the name of a set, of one metric, or a list of names. InputError for an unknown one."""
    names = sets.get(metrics, [metrics]) if isinstance(metrics, str) else metrics
    stems = [Path(name).stem for name in names]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(f"metrics: two of them are called '{twice}': scores are stored by this name, rename one")
    return {Path(name).stem: metric_config(name) for name in names}


def manifests(run: Path, generation: str | None = None) -> list[Path]:
    """Return the manifest of each generation below a concept's, a seed's or a configuration's folder. InputError if
    there is none."""
    if not run.is_dir():
        raise InputError(f"run={run}: there is no such folder")
    if generation is not None:
        check_name(generation, "generation")
    found = sorted({path for level in LEVELS for path in run.glob(f"{level}images/{generation or '*'}/manifest.json")})
    if not found:
        raise InputError(f"run={run}: no images{f' of generation {generation}' if generation else ''}; generate first")
    return found


def evaluate(cfg: DictConfig) -> int:
    """Compute the missing scores of a run's generations, and print the means; return how many columns of scores were
    computed. BusyError, when all others are computed, for files that another process computes."""
    plain = OmegaConf.to_container(cfg)
    configs = chosen_metrics(plain["metrics"], plain["sets"])
    masks = None if cfg.masks is None else user_path(cfg.masks)
    found = manifests(Path(cfg.run), cfg.generation)
    names = {name for path in found for image in Manifest.read(path).images for name in image.concepts}
    concepts = {concept.name: concept for concept in build(cfg.concepts, ConceptSet).load(sorted(names))}
    files = [generated(path, concepts) for path in found]
    try:
        computed = score(files, configs, masks, cfg.accelerator, cfg.devices)
    except BusyError:
        print(summary(files, list(configs)))
        raise
    print(summary(files, list(configs)))
    _track(cfg, files, list(configs))
    print(f"{len(files)} score files, {computed} columns computed, the rest were computed before")
    return computed


Values = Mapping[str, Mapping[str, list[float]]]  # concept -> metric -> its values


def summary(files: Sequence[ScoreFile], metrics: Sequence[str]) -> str:
    """Return a table for each generation, concept by metric: the mean over its images (or its one value for all of
    them), their number, and the score files."""
    values, parts = _values(files), []
    for generation in dict.fromkeys(file.csv.stem for file in files):
        table = _markdown(values[generation], metrics)
        listed = "".join(f"  {f.csv}\n" for f in files if f.csv.stem == generation and f.csv.is_file())
        parts.append(f"generation {generation}, mean (number of values):\n\n{table}\nscore files:\n{listed}")
    return "\n".join(parts)


def _values(files: Sequence[ScoreFile]) -> dict[str, Values]:
    """Return what the score files that are there hold, by generation."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in files:
        for row in read_scores(file.csv) if file.csv.is_file() else ():
            found[file.csv.stem][row.concept][row.metric].append(row.value)
    return found


def _markdown(values: Values, metrics: Sequence[str]) -> str:
    lines = [
        [concept, *(f"{fmean(of[m]):.3f} ({len(of[m])})" if m in of else "" for m in metrics)]
        for concept, of in sorted(values.items())
    ]
    return markdown([["concept", *metrics], *lines])


def _track(cfg: DictConfig, files: Sequence[ScoreFile], metrics: Sequence[str]) -> None:
    """Show the means of each generation in the logger, as numbers and as a table."""
    with tracking(cfg, "evaluate", *Path(cfg.run).resolve().parts[-3:]) as tracker:
        for generation, values in _values(files).items() if tracker.logger else ():
            means = {concept: {m: fmean(of[m]) for m in metrics if m in of} for concept, of in sorted(values.items())}
            tracker.numbers({f"{generation}/{c}/{m}": mean for c, of in means.items() for m, mean in of.items()})
            rows = [[concept, *map(of.get, metrics)] for concept, of in means.items()]
            tracker.table(generation, ["concept", *metrics], rows, _markdown(values, metrics))


@command("evaluate")
def main(cfg: DictConfig) -> int:
    return evaluate(cfg)


if __name__ == "__main__":
    main()
