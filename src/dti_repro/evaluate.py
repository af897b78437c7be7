"""``python -m dti_repro.evaluate run=<folder> metrics=<set or list>``: one row per image and metric, beside
the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.app import entry
from dti_repro.concepts.concept import ConceptSet
from dti_repro.configured import build
from dti_repro.errors import InputError
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.scoring import generated, score
from dti_repro.results.manifest import Manifest
from dti_repro.results.run import check_name

_LEVELS = ("", "*/", "seed=*/*/")  # a concept's folder, a seed's (or a text row's), a configuration's


def chosen_metrics(metrics: str | list[str], sets: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """name -> yaml of a set's name, one metric's name or a list of names. InputError for an unknown one."""
    names = sets.get(metrics, [metrics]) if isinstance(metrics, str) else metrics
    if not names:
        raise InputError(f"metrics is empty; name some, or a set: {', '.join(sets)}")
    return {Path(name).stem: metric_config(name) for name in names}


def manifests(run: Path, generation: str | None = None) -> list[Path]:
    """Every generation below a concept's, a seed's or a configuration's folder. InputError if there is
    none."""
    if not run.is_dir():
        raise InputError(f"run={run}: there is no such folder")
    if generation is not None:
        check_name(str(generation), "generation")
    pattern = f"images/{generation or '*'}/manifest.json"
    found = sorted({path for level in _LEVELS for path in run.glob(level + pattern)})
    if not found:
        raise InputError(f"run={run}: no images{f' of generation {generation}' if generation else ''}; generate first")
    return found


def evaluate(cfg: DictConfig) -> None:
    """Score every generation of a run that lacks one of the metrics."""
    sets = OmegaConf.to_container(cfg.sets)
    metrics = OmegaConf.to_container(cfg.metrics) if OmegaConf.is_list(cfg.metrics) else cfg.metrics
    configs = chosen_metrics(metrics, sets)
    found = manifests(Path(cfg.run), cfg.generation)
    names = {name for path in found for image in Manifest.read(path).images for name in image.concepts}
    concepts = {concept.name: concept for concept in build(cfg.concepts, ConceptSet).load(sorted(names))}
    files = [generated(path, concepts) for path in found]
    computed = score(files, configs, Path(cfg.masks) if cfg.masks else None, cfg.accelerator, cfg.devices)
    print(f"{len(files)} score files, {computed} columns computed, the rest were there")


@entry("evaluate")
def main(cfg: DictConfig) -> None:
    evaluate(cfg)


if __name__ == "__main__":
    main()
