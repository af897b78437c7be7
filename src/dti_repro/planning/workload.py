"""What an experiment asks for, cell by cell, and what of it lies in the run folders already. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.backbones.checkpoint import locate
from dti_repro.backbones.hub import cached, is_hub_id
from dti_repro.errors import InputError
from dti_repro.generate import of_run, of_text
from dti_repro.generation import Gallery, Settings
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.scoring import ScoreFile, generated, mismatched, real_references
from dti_repro.pipeline import Plan
from dti_repro.prompts import PromptSet
from dti_repro.results.experiment import RowSpec
from dti_repro.results.facts import gradient_norm
from dti_repro.results.manifest import NAME
from dti_repro.results.run import ConceptFolder, config_hash
from dti_repro.train import HASHED_TRAINER, check, is_complete, run_folder


@dataclass(frozen=True)
class Training:
    """One distinct setting that is trained, for all concepts of the experiment; rows may share it."""

    cfg: DictConfig
    photos: Mapping[str, int]  # concept -> how many it is taught with
    done: frozenset[str]  # concepts

    @property
    def samples(self) -> int:
        """Of each concept: images that pass the denoiser."""
        trainer = self.cfg.trainer
        return trainer.steps * trainer.batch * trainer.accumulate


@dataclass(frozen=True)
class Scoring:
    """Images of one score file and the metrics that are missing in it."""

    images: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Workload:
    trainings: Sequence[Training]
    pictures: int
    drawn: int  # of these
    scorings: Sequence[Scoring]
    metrics: Sequence[str]
    drawing: DictConfig | None  # generate's configuration; None where no pictures are asked for


def workload(plan: Plan) -> Workload:
    """Everything that the plan's experiment would do. InputError for what its commands would not take."""
    draws = any(o.startswith("prompts=") for o in (*plan.experiment.setup, *plan.experiment.generate, *plan.generate))
    rows = [_Row(plan, row) for row in plan.experiment.rows]
    by_name = {row.spec.name: row for row in rows}
    for row in rows:
        row.resolve(by_name)
    trainings: dict[str, Training] = {}
    for row in rows:
        for key, training in row.trainings.items():
            trainings.setdefault(key, training)
    if not draws:
        return Workload(list(trainings.values()), 0, 0, (), (), None)
    prompts, seeds, drawing = plan.prompts(), plan.seeds(), plan.generate_config()
    per_word = _pictures(prompts, list(plan.concepts)) * len(seeds)
    drawn, scorings, total = 0, [], 0
    unique = {row.drawing_key: row for row in rows}.values()
    for row in unique:
        if row.spec.bound == "references":
            scorings += row.reference_scorings()
            continue
        galleries = row.galleries(drawing, prompts, seeds)
        pictures = per_word * max(1, len(row.trainings))
        total += pictures
        drawn += sum(len(g.manifest.images) - len(g.missing()) for g in galleries)
        scorings += row.scorings(galleries, pictures)
    return Workload(list(trainings.values()), total, drawn, scorings, list(plan.experiment.metrics), drawing)


def _pictures(prompts: PromptSet, concepts: Sequence[str]) -> int:
    """With one seed: prompts of `{}` are drawn for each concept, those that name concepts once."""
    return sum(
        len(concepts) if not prompt.names else int(set(prompt.names) <= set(concepts)) for prompt in prompts.prompts
    )


class _Row:
    """A row of the experiment on its way to a workload."""

    def __init__(self, plan: Plan, spec: RowSpec) -> None:
        self.plan, self.spec = plan, spec
        self.trainings: dict[str, Training] = {}
        """By a key that is equal for trainings that give the same vectors."""
        self.folders: list[ConceptFolder] = []

    def resolve(self, rows: Mapping[str, _Row]) -> None:
        """Compose the row's trainings and look for their results. A kappa that is a share of another row's gradient is
        a number once that row is trained; before, any number stands for it."""
        if self.spec.bound is not None:
            return
        row, known = self.spec, True
        if row.kappa is not None:
            reference = rows[row.kappa.of]
            gradient = gradient_norm(reference.folders) if reference.complete else None
            row = replace(row, overrides=(*row.overrides, row.kappa.override(gradient or 1.0)))
            known = gradient is not None
        photos = {name: len(concept.images) for name, concept in self.plan.concepts.items()}
        for cfg in self.plan.train_configs(row):
            check(cfg)
            trained = self._folders(cfg) if known else []
            self.folders += trained
            if "source" in cfg.method:  # nothing is trained but what it is derived from
                cfg = deepcopy(cfg)
                OmegaConf.set_struct(cfg, False)
                cfg.method = cfg.method.source
                trained = self._folders(cfg)
            done = frozenset(folder.name for folder in trained if is_complete(cfg, folder))
            key = _identity(cfg) if known else f"{row.name}, seed {cfg.seed}"
            self.trainings[key] = Training(cfg, photos, done)

    @property
    def drawing_key(self) -> str:
        """Equal for rows whose pictures are the same files."""
        return self.spec.bound or (str(self.folders[0].seed_folder) if self.folders else self.spec.name)

    @property
    def complete(self) -> bool:
        return bool(self.folders) and all(folder.is_done() for folder in self.folders)

    def galleries(self, cfg: DictConfig, prompts: PromptSet, seeds: Sequence[int]) -> list[Gallery]:
        """Where its pictures would lie; none while their vectors or the model's weights are not there."""
        if _weights(cfg) is None or not (self.spec.bound or self.complete):
            return []
        own = deepcopy(cfg)
        settings = Settings.of(cfg)
        if self.spec.bound is None:
            own.run = str(self.folders[0].seed_folder)
            return of_run(self.folders, own, prompts, seeds, settings)
        own.text = self.spec.bound
        return of_text(own, prompts, seeds, settings)

    def scorings(self, galleries: Sequence[Gallery], pictures: int) -> list[Scoring]:
        """Once more with exchanged texts where a search scales its scores."""
        metrics = tuple(self.plan.experiment.metrics)
        again = self.plan.experiment.search and self.spec.bound == "class"
        if not galleries or any(gallery.missing() for gallery in galleries):
            return [Scoring(pictures, metrics)] * (2 if again else 1)
        files = [generated(gallery.folder / NAME, self.plan.concepts) for gallery in galleries]
        return [self._scoring(file) for file in (*files, *(map(mismatched, files) if again else ()))]

    def reference_scorings(self) -> list[Scoring]:
        root = Path(self.plan.runs) / self.plan.generate_config().backbone.name / "references"
        concepts = self.plan.concepts.items()
        return [self._scoring(real_references(c, root / name / "scores" / "real.csv")) for name, c in concepts]

    def _scoring(self, file: ScoreFile) -> Scoring:
        configs = {name: metric_config(name) for name in self.plan.experiment.metrics}
        return Scoring(len(file.items), tuple(file.missing(configs)))

    def _folders(self, cfg: DictConfig) -> list[ConceptFolder]:
        """Of its concepts, trained or not; none where the weights, which their names depend on, are not here."""
        if _weights(cfg) is None:
            return []
        run = run_folder(cfg)
        return [run.concept(name) for name in self.plan.concepts]


def _weights(cfg: DictConfig) -> Path | None:
    """The model's folder, unless it would have to be downloaded."""
    path = cfg.backbone.path
    if path is not None and is_hub_id(path):
        folder = cached(path, cfg.backbone.revision)
        try:
            return folder and locate(str(folder))
        except InputError:
            return None
    return locate(path)


def _identity(cfg: DictConfig) -> str:
    """Equal for trainings that give the same vectors."""
    groups = ("method", "adapter", "optim", "backbone", "templates")
    content: dict[str, Any] = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    return config_hash({**content, "trainer": {key: cfg.trainer[key] for key in HASHED_TRAINER}, "seed": cfg.seed})
