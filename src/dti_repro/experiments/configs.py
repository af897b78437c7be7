"""The configurations of an experiment: of the trainings of each row, and of the generation. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dti_repro.artifacts.run_dir import ConceptFolder, check_name
from dti_repro.backbones.location import KEYS
from dti_repro.config import CONF, build, validate
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.masks import check_masks
from dti_repro.data.prompts import PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.experiments.spec import Experiment, RowSpec, parse_experiment
from dti_repro.inference.selection import asked_images, image_seeds
from dti_repro.launch.command_line import compose
from dti_repro.launch.failures import explain
from dti_repro.metrics.catalogue import metric_config
from dti_repro.training.runs import check_pack, run_folder


@dataclass(frozen=True)
class ExperimentRun:
    """An experiment with further overrides. `concepts`: by name; empty: those of the configuration."""

    experiment: Experiment
    runs: str
    setup: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    concepts: Mapping[str, Concept] = field(default_factory=dict)

    def train_configs(self, row: RowSpec) -> list[DictConfig]:
        """Return a configuration for each training seed, none for a bound. InputError that names the experiment and the
        row for what conf/train.yaml does not take."""
        if row.bound is not None:
            return []
        overrides = (*self.experiment.train, *row.overrides, *self.train)
        if steps := self.experiment.snapshots:
            overrides = (*overrides, f"trainer.snapshots={list(steps)}")
        seeds = self.experiment.training_seeds
        fixed = [o for o in (*self.experiment.setup, *self.setup, *overrides) if o.lstrip("+").startswith("seed=")]
        if seeds and fixed:
            both = f"{fixed[0]} and training_seeds={list(seeds)}"
            raise InputError(f"experiment '{self.experiment.name}': {both}: leave one of them out")
        cfg = self._config("train", f"row '{row.name}'", overrides)
        return [OmegaConf.merge(cfg, {"seed": seed}) for seed in seeds] or [cfg]  # to compose each takes 80 ms

    def trainings(self) -> list[DictConfig]:
        """Return the configurations of all rows."""
        return [cfg for row in self.experiment.rows for cfg in self.train_configs(row)]

    def generate_config(self) -> DictConfig:
        return self._config("generate", "generate", (*self.experiment.generate, *self.generate))

    def choose_concepts(self, most: int | None) -> ExperimentRun:
        """Return the same with the first `most` of the configured concepts by name, or with all."""
        concepts: list[Concept] = build(self.generate_config().concepts, ConceptSet).load()
        limits = [n for n in (most, self.experiment.subjects) if n is not None]
        chosen = sorted(concepts, key=lambda concept: concept.name)[: min(limits, default=None)]
        return replace(self, concepts={concept.name: concept for concept in chosen})

    def concept_folders(self, cfg: DictConfig) -> list[ConceptFolder]:
        """Return where the concepts of a training lie, trained or not."""
        return [run_folder(cfg).concept(name) for name in self.concepts]

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the yaml of each metric, by its name."""
        return {name: metric_config(name) for name in self.experiment.metrics}

    def prompts(self) -> PromptSet:
        return load_prompts(OmegaConf.to_container(self.generate_config()).get("prompts"))

    def seeds(self) -> list[int]:
        return image_seeds(OmegaConf.to_container(self.generate_config()).get("seeds"))

    def is_changed(self) -> bool:
        """Return whether keys of the command line change a vector, an image or which concepts there are."""

        def checkpoints(run: ExperimentRun) -> list[Any]:
            return [cfg.backbone.get(key) for cfg in (*run.trainings(), run.generate_config()) for key in KEYS]

        def content(run: ExperimentRun) -> list[Any]:
            drawn = asked_images(run.generate_config())
            return [list(run.concepts), [run_folder(cfg).path for cfg in run.trainings()], *drawn]

        try:
            plain = replace(self, setup=(), train=(), generate=(), concepts={}).choose_concepts(None)
            # A checkpoint that the keys replace is not looked for.
            return checkpoints(self) != checkpoints(plain) or content(self) != content(plain)
        except InputError:  # without these keys there is nothing to run
            return True

    def check(self, masks: Path | None = None) -> None:
        """Raise InputError for a wrong setting of a row or of the generation, and for missing masks of photos, before
        the first row is trained."""
        for cfg in self.trainings():
            check_pack(cfg, len(self.concepts))
        asked_images(self.generate_config())
        self.check_masks(masks)

    def check_masks(self, masks: Path | None) -> None:
        """Raise InputError where `masks` is a folder that lacks the mask of a photo."""
        for concept in self.concepts.values() if masks else ():
            check_masks(masks, concept.name, concept.images)

    def _config(self, command: str, part: str, overrides: Sequence[str]) -> DictConfig:
        where = f"experiment '{self.experiment.name}', {part}"
        if other := [override for override in overrides if re.match(r"[+~]*concepts\b", override)]:
            raise InputError(f"{where}: {other[0]}: all rows have the same subjects: write it in setup")
        try:
            cfg = deepcopy(_compose(command, (*self.experiment.setup, *self.setup, *overrides)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        cfg.runs = self.runs
        if self.concepts and "names" in cfg.concepts:
            cfg.concepts.names = list(self.concepts)
        return cfg


def load_run(cfg: DictConfig, name: str, subjects: int | None) -> ExperimentRun:
    """Return the experiment of this name in the configuration of benchmark or demo, with at most so many concepts.
    InputError for a wrong experiment."""
    run = parse_run(cfg, name).choose_concepts(subjects)
    single = [concept.name for concept in run.concepts.values() if len(concept.images) < 2]
    if run.experiment.search and single:
        raise InputError(
            f"experiment '{name}': concept '{single[0]}' has one photo only: a search scales image scores by those of "
            "photos compared with each other, and needs two of each concept"
        )
    return run


def parse_run(cfg: DictConfig, name: str) -> ExperimentRun:
    """Return the experiment of this name as load_run, but before its concepts and their photos are looked for. The
    configuration may be that of plan, too."""
    content = OmegaConf.to_container(cfg.experiment, resolve=True)
    experiment = parse_experiment(check_name(name, "experiment"), content, searched_file(cfg))
    return ExperimentRun(
        experiment, cfg.get("runs", "runs"), *(tuple(cfg[key]) for key in ("setup", "train", "generate"))
    )


def searched_file(cfg: DictConfig) -> Path:
    """Return the yaml that a search writes and searched rows read."""
    return Path(OmegaConf.select(cfg, "searched") or CONF / "searched.yaml")


@cache
def _compose(command: str, overrides: tuple[str, ...]) -> DictConfig:
    """Return the configuration of a command. InputError for what it does not take."""
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):  # the yaml may come from anyone
        raise InputError("hydra's settings are no part of an experiment: give them on the command line")
    try:
        cfg = compose(command, overrides)
        with open_dict(cfg):
            del cfg.hydra
        validate(command, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, command, overrides)) from error
    return cfg
