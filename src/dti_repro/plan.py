"""Estimate FLOPs, memory and time of an experiment, or of one run, before it starts.

The count is made at the real widths on the meta device: nothing is computed, allocated or downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import comb
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_yaml, write_json
from dti_repro.config import CONF, build
from dti_repro.experiments.configs import ExperimentRun, parse_run
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.launch.command import command
from dti_repro.launch.sweep import typed_overrides
from dti_repro.training.runs import source_config

SHARED = {"backbone", "concepts", "templates"}  # groups that train and generate both have
TRAIN = {*SHARED, "optim", "method", "adapter", "trainer", "seed"}  # keys of plan.yaml that train has, too


@command("plan")
def main(cfg: DictConfig) -> None:
    """Print the report, and write it as json where `out` names a file. InputError for anything that train, generate or
    the plan itself does not take."""
    name = HydraConfig.get().runtime.choices["experiment"]
    experiment = _single(cfg) if name is None else parse_run(cfg, name).experiment
    typed = [(re.split(r"[.@=/]", override.lstrip("+~"), maxsplit=1)[0], override) for override in typed_overrides()]
    setup = [override for key, override in typed if key in SHARED]
    train = [override for key, override in typed if key not in SHARED | ({*cfg, "experiment", "hydra"} - TRAIN)]
    run = ExperimentRun(experiment, "runs", (*cfg.setup, *setup), (*cfg.train, *train), tuple(cfg.generate))
    report, data = estimate_run(run.choose_concepts(cfg.subjects), cfg.device, cfg.png_bytes_per_pixel)
    if cfg.out is not None:
        assumed = {"device": OmegaConf.to_container(cfg.device), "png_bytes_per_pixel": cfg.png_bytes_per_pixel}
        write_json(Path(cfg.out), {"title": experiment.title, "assumed": assumed, **data})
    print(f"{experiment.title}\n\n{report}")


def estimate_run(
    run: ExperimentRun, device: Mapping[str, Any], png_bytes_per_pixel: float
) -> tuple[str, dict[str, Any]]:
    """Return the report and the data of the whole experiment, of which all rows count with the backbone and precision
    of the first one. device: a node of conf/device."""
    metrics = run.metrics()
    trainings: dict[str, DictConfig] = {}  # rows may share one
    sets: dict[str, int] = {}  # of images, which rows may share, too: the number of trainings that draw each
    for row in run.experiment.rows:
        cfgs = run.train_configs(row)
        sets[row.bound or f"{row.kappa} {row.snapshot} {cfgs}"] = len(cfgs) or 1
        for cfg in cfgs:
            trained = source_config(cfg) if "source" in cfg.method else cfg
            trainings[f"{row.kappa} {trained}"] = trained
    cfg = run.generate_config()
    from dti_repro.cost.estimate import Device, Estimate  # imports torch

    estimate = Estimate(next(iter(trainings.values()), cfg), build(device, Device, "device"))
    concepts, photos = len(run.concepts), sum(len(concept.images) for concept in run.concepts.values())
    if trainings:
        estimate.add_trainings(list(trainings.values()), concepts, photos)
    if not OmegaConf.is_missing(cfg, "prompts"):
        # A prompt with {} is drawn for each concept, one that names concepts once.
        prompts = [set(p.names) <= set(run.concepts) if p.names else concepts for p in run.prompts().prompts]
        images, references = sum(prompts) * len(run.seeds()), photos * sets.pop("references", 0)
        between = 0
        if paths := run.experiment.paths:  # for each way, pair of concepts and training seed, both ends included
            lines = len(paths.ways) * comb(concepts, 2) * max(1, len(run.experiment.training_seeds))
            between = lines * paths.points * len(prompts) * len(run.seeds())
        estimate.add_images(cfg, images * sum(sets.values()) + between, png_bytes_per_pixel)
        # A search scores the images of the class row with other prompts, too.
        estimate.add_scores(metrics, images * (sum(sets.values()) + run.experiment.search) + references)
    return estimate.report(), estimate.data


def _single(cfg: DictConfig) -> Experiment:
    """Return an experiment of one row, which the typed overrides describe."""
    metrics = OmegaConf.to_container(cfg)["metrics"]
    if isinstance(metrics, str):
        metrics = read_yaml(CONF / "evaluate.yaml")["sets"].get(metrics, [metrics])
    choices = HydraConfig.get().runtime.choices
    title = f"{choices['method']} on {choices['backbone']}"
    return Experiment("plan", title, (), dict(zip(metrics, metrics, strict=True)), "", (), (RowSpec("run", title),))


if __name__ == "__main__":
    main()
