"""List what an experiment asks for, and what of it lies in the run folders already. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.manifest import NAME
from dti_repro.artifacts.run_dir import ConceptFolder, config_hash
from dti_repro.artifacts.training_facts import gradient_norm
from dti_repro.backbones.checkpoint import find
from dti_repro.experiments.runner import ExperimentRun
from dti_repro.experiments.spec import RowSpec
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder
from dti_repro.inference.selection import of_run, of_text
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import ScoreFile, generated, mismatched, real_references
from dti_repro.training.runs import HASHED_TRAINER, is_complete, run_folder, source_config


@dataclass(frozen=True)
class Training:
    """One distinct setting that is trained, for all concepts of the experiment; rows may share it."""

    cfg: DictConfig
    photos: Mapping[str, int]  # concept -> number of its photos
    done: frozenset[str]  # concepts

    @property
    def samples(self) -> int:
        """Images that pass the denoiser, for each concept."""
        trainer = self.cfg.trainer
        return trainer.steps * trainer.batch * trainer.accumulate


@dataclass(frozen=True)
class Scoring:
    """The images of one score file, and the metrics that are missing in it."""

    images: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Workload:
    trainings: Sequence[Training]
    pictures: int
    generated: int  # pictures that are there already
    scorings: Sequence[Scoring]
    metrics: Sequence[str]
    generation: DictConfig | None  # generate's configuration; None where no pictures are asked for


@dataclass(frozen=True)
class _Row:
    spec: RowSpec
    trainings: Mapping[str, Training]  # by a key that is equal for trainings that give the same vectors
    folders: Sequence[ConceptFolder]  # of its concepts, trained or not; none if their names are not known yet

    @property
    def complete(self) -> bool:
        return bool(self.folders) and all(folder.is_done() for folder in self.folders)

    @property
    def images(self) -> str:
        """Equal for rows whose pictures are the same files."""
        return self.spec.bound or (str(self.folders[0].seed_folder) if self.folders else self.spec.name)


def workload(plan: ExperimentRun) -> Workload:
    """List everything that the plan's experiment would do. InputError for what its commands would not take."""
    rows: dict[str, _Row] = {}
    trainings: dict[str, Training] = {}
    for spec in plan.experiment.rows:
        row = rows[spec.name] = _row(plan, spec, rows)
        trainings.update({key: training for key, training in row.trainings.items() if key not in trainings})
    every = list(trainings.values())
    if not any(o.startswith("prompts=") for o in (*plan.experiment.setup, *plan.experiment.generate, *plan.generate)):
        return Workload(every, 0, 0, (), (), None)
    prompts, seeds, cfg = plan.prompts().prompts, plan.seeds(), plan.generate_config()
    # A prompt with {} is generated for each concept, one that names concepts once.
    asked = (int(set(p.names) <= set(plan.concepts)) if p.names else len(plan.concepts) for p in prompts)
    of_vectors = sum(asked) * len(seeds)
    pictures, there = 0, 0
    scorings: list[Scoring] = []
    for row in {row.images: row for row in rows.values()}.values():
        if row.spec.bound == "references":
            scorings += _reference_scorings(plan, cfg.backbone.name)
            continue
        own = of_vectors * max(1, len(row.trainings))
        image_folders = _galleries(plan, row, cfg)
        pictures += own
        there += sum(len(image_folder.manifest.images) - len(image_folder.missing()) for image_folder in image_folders)
        scorings += _scorings(plan, row, image_folders, own)
    return Workload(every, pictures, there, scorings, list(plan.experiment.metrics), cfg)


def _row(plan: ExperimentRun, row: RowSpec, before: Mapping[str, _Row]) -> _Row:
    """Compose the row's trainings and look for their results. A kappa that is a share of another row's gradient is a
    number when that row is trained; until then any number stands for it."""
    if row.bound is not None:
        return _Row(row, {}, [])
    known, composed = True, row
    if row.kappa is not None:
        reference = before[row.kappa.of]
        gradient = gradient_norm(reference.folders) if reference.complete else None
        composed = replace(row, overrides=(*row.overrides, row.kappa.override(gradient or 1.0)))
        known = gradient is not None
    photos = {name: len(concept.images) for name, concept in plan.concepts.items()}
    trainings: dict[str, Training] = {}
    folders: list[ConceptFolder] = []
    for cfg in plan.train_configs(composed):
        trained = _folders(plan, cfg) if known else []
        folders += trained
        if "source" in cfg.method:  # nothing is trained but what it is derived from
            cfg = source_config(cfg)
            trained = _folders(plan, cfg) if known else []
        done = frozenset(folder.name for folder in trained if is_complete(cfg, folder))
        trainings[_identity(cfg) if known else f"{row.name}, seed {cfg.seed}"] = Training(cfg, photos, done)
    return _Row(row, trainings, folders)


def _folders(plan: ExperimentRun, cfg: DictConfig) -> list[ConceptFolder]:
    """Return its concepts' folders; none where the weights, which their names depend on, are not here."""
    if find(cfg.backbone.path, cfg.backbone.revision) is None:
        return []
    run = run_folder(cfg)
    return [run.concept(name) for name in plan.concepts]


def _galleries(plan: ExperimentRun, row: _Row, cfg: DictConfig) -> list[ImageFolder]:
    """Return where its pictures are or would be; none while its vectors or the model's weights are not here."""
    if find(cfg.backbone.path, cfg.backbone.revision) is None or not (row.spec.bound or row.complete):
        return []
    own, prompts, seeds, settings = deepcopy(cfg), plan.prompts(), plan.seeds(), GenerationConfig.of(cfg)
    if row.spec.bound is None:
        own.run = str(row.folders[0].seed_folder)
        return of_run(row.folders, own, prompts, seeds, settings)
    own.text = row.spec.bound
    return of_text(own, prompts, seeds, settings)


def _scorings(plan: ExperimentRun, row: _Row, image_folders: Sequence[ImageFolder], pictures: int) -> list[Scoring]:
    """Return its scorings; once more with exchanged texts where a search scales its scores."""
    twice = plan.experiment.search and row.spec.bound == "class"
    if not image_folders or any(image_folder.missing() for image_folder in image_folders):
        return [Scoring(pictures, tuple(plan.experiment.metrics))] * (2 if twice else 1)
    files = [generated(image_folder.path / NAME, plan.concepts) for image_folder in image_folders]
    return [_scoring(plan, file) for file in (*files, *(map(mismatched, files) if twice else ()))]


def _reference_scorings(plan: ExperimentRun, backbone: str) -> list[Scoring]:
    root = Path(plan.runs) / backbone / "references"
    files = [real_references(c, root / name / "scores" / "real.csv") for name, c in plan.concepts.items()]
    return [_scoring(plan, file) for file in files]


def _scoring(plan: ExperimentRun, file: ScoreFile) -> Scoring:
    configs = {name: metric_config(name) for name in plan.experiment.metrics}
    return Scoring(len(file.items), tuple(file.missing(configs)))


def _identity(cfg: DictConfig) -> str:
    """Return a key that is equal for trainings that give the same vectors."""
    groups = ("method", "adapter", "optim", "backbone", "templates")
    content: dict[str, Any] = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    return config_hash({**content, "trainer": {key: cfg.trainer[key] for key in HASHED_TRAINER}, "seed": cfg.seed})
