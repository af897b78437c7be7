"""The stages of an experiment: train, generate, score. Each computes what is missing, in one process or in jobs.

Nothing heavy is imported unless something is missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dti_repro.artifacts.manifest import NAME
from dti_repro.artifacts.run_dir import ConceptFolder, check_name, gradient_norm
from dti_repro.artifacts.scores import read_scores, subject_means
from dti_repro.config import CONF, build, validate
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.prompts import PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.experiments.spec import Experiment, RowSpec, parse_experiment
from dti_repro.inference.generator import draw
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder
from dti_repro.inference.selection import image_folders_of_run, image_folders_of_text, image_seeds
from dti_repro.launch.command_line import compose
from dti_repro.launch.failures import explain
from dti_repro.metrics.evaluator import ScoreFile, generated, real_references
from dti_repro.training.runs import check_metadata, check_pack, is_complete, run_folder, source_config
from dti_repro.training.train_missing import train_missing


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
        """Return a configuration for each training seed. InputError that names the experiment and the row for what
        conf/train.yaml does not take."""
        overrides = (*self.experiment.train, *row.overrides, *self.train)
        if steps := self.experiment.snapshots:
            overrides = (*overrides, f"trainer.snapshots={list(steps)}")
        seeds = self.experiment.training_seeds
        fixed = [o for o in (*self.experiment.setup, *self.setup, *overrides) if o.lstrip("+").startswith("seed=")]
        if seeds and fixed:
            both = f"{fixed[0]} and training_seeds={list(seeds)}"
            raise InputError(f"experiment '{self.experiment.name}': {both}: leave one of them out")
        choices = [(*overrides, f"seed={seed}") for seed in seeds] or [overrides]
        return [self._config("train", f"row '{row.name}'", choice) for choice in choices]

    def generate_config(self) -> DictConfig:
        return self._config("generate", "generate", (*self.experiment.generate, *self.generate))

    def choose_concepts(self, most: int | None) -> ExperimentRun:
        """Return the same with the first `most` of the configured concepts by name, or with all."""
        concepts: list[Concept] = build(self.generate_config().concepts, ConceptSet).load()
        limits = [n for n in (most, self.experiment.subjects) if n is not None]
        chosen = sorted(concepts, key=lambda concept: concept.name)[: min(limits, default=None)]
        return replace(self, concepts={concept.name: concept for concept in chosen})

    def prompts(self) -> PromptSet:
        return load_prompts(OmegaConf.to_container(self.generate_config()).get("prompts"))

    def seeds(self) -> list[int]:
        return image_seeds(OmegaConf.to_container(self.generate_config()).get("seeds"))

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
    """Return the experiment of this name as load_run, but before its concepts and their photos are looked for."""
    content = OmegaConf.to_container(cfg.experiment, resolve=True)
    experiment = parse_experiment(check_name(name, "experiment"), content, searched_file(cfg))
    return ExperimentRun(experiment, cfg.runs, *(tuple(cfg[key]) for key in ("setup", "train", "generate")))


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
        OmegaConf.set_struct(cfg, False)
        del cfg.hydra
        OmegaConf.set_struct(cfg, True)
        validate(command, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, command, overrides)) from error
    return cfg


@dataclass
class RowResult:
    """The files of one row, as far as its stages have run."""

    spec: RowSpec
    cfgs: list[DictConfig] = field(default_factory=list)  # of its trainings, one for each seed; none for a bound
    trained: int = 0  # trainings that were missing: concepts x seeds
    folders: list[ConceptFolder] = field(default_factory=list)  # of its trained concepts, seed by seed
    image_folders: list[ImageFolder] = field(default_factory=list)
    score_files: list[ScoreFile] = field(default_factory=list)


def check_rows(run: ExperimentRun) -> None:
    """Raise InputError if a row or the generation has a wrong setting, before the first row is trained."""
    for row in run.experiment.rows:
        if row.bound is None:
            for cfg in run.train_configs(row):
                check_pack(cfg, len(run.concepts))
    run.prompts()
    run.seeds()
    GenerationConfig.of(run.generate_config())


def train_rows(run: ExperimentRun, rows: Sequence[RowSpec]) -> list[RowResult]:
    """Train what is missing, row by row. A relative kappa becomes a number when its other row is trained."""
    results: dict[str, RowResult] = {}
    for row in rows:
        row = with_kappa(row, results)
        results[row.name] = RowResult(row) if row.bound else _train_row(run, row)
    return list(results.values())


def with_kappa(row: RowSpec, results: Mapping[str, RowResult]) -> RowSpec:
    """Return the row with its relative kappa as a number, from the row that it is relative to."""
    if row.bound is not None or row.kappa is None:
        return row
    gradient = gradient_norm(results[row.kappa.of].folders)
    if gradient is None:
        raise InputError(f"row '{row.name}' takes kappa of '{row.kappa.of}', which has no training log")
    return replace(row, overrides=(*row.overrides, row.kappa.override(gradient)))


def _train_row(run: ExperimentRun, row: RowSpec) -> RowResult:
    result = RowResult(row, run.train_configs(row))
    for cfg in result.cfgs:
        if not is_trained(run, cfg):
            print(f"train {row.label}: {run_folder(cfg).path}", flush=True)
            result.trained += train_missing(cfg)[1]
        result.folders += concept_folders(run, cfg)
    return result


def is_trained(run: ExperimentRun, cfg: DictConfig) -> bool:
    """Return whether all concepts of a training are there. InputError for one that was trained with other photos,
    another word or another start."""
    folders = concept_folders(run, cfg)
    if not all(is_complete(cfg, folder) for folder in folders):
        return False
    for folder in folders:
        check_metadata(cfg, folder, run.concepts[folder.name])
    return True


def concept_folders(run: ExperimentRun, cfg: DictConfig) -> list[ConceptFolder]:
    return [run_folder(cfg).concept(name) for name in run.concepts]


def generate_rows(run: ExperimentRun, results: Sequence[RowResult]) -> int:
    """Generate the missing images of all rows with one model, fill in their image folders, and return the number of
    generated images."""
    list_image_folders(run, results)
    image_folders = [image_folder for result in results for image_folder in result.image_folders]
    missing = sum(len(image_folder.missing()) for image_folder in image_folders)
    if not missing:
        return 0
    print(f"generate: {missing} images", flush=True)
    cfg = run.generate_config()
    return draw(image_folders, cfg, GenerationConfig.of(cfg))


def list_image_folders(run: ExperimentRun, results: Sequence[RowResult]) -> None:
    """Fill in the image folders of trained rows and of bounds, whether their images are drawn or not."""
    prompts, seeds, cfg = run.prompts(), run.seeds(), run.generate_config()
    config = GenerationConfig.of(cfg)
    for result in results:
        row_cfg = deepcopy(cfg)
        if result.spec.bound is None:
            row_cfg.run = str(result.folders[0].seed_folder)
            row_cfg.snapshot = result.spec.snapshot
            row_cfg.with_class |= any("{class}" in template for template in result.cfgs[0].templates.prompts)
            result.image_folders = image_folders_of_run(result.folders, row_cfg, prompts, seeds, config)
        elif result.spec.bound != "references":
            row_cfg.text, row_cfg.with_class = result.spec.bound, False
            result.image_folders = image_folders_of_text(row_cfg, prompts, seeds, config)


def list_score_files(run: ExperimentRun, results: Sequence[RowResult]) -> list[ScoreFile]:
    """Fill in and return the score files of all rows."""
    references = Path(run.runs) / run.generate_config().backbone.name / "references"
    for result in results:
        if result.spec.bound == "references":
            result.score_files = [
                real_references(concept, references / name / "scores" / "real.csv")
                for name, concept in run.concepts.items()
            ]
        else:
            result.score_files = [generated(folder.path / NAME, run.concepts) for folder in result.image_folders]
    return [file for result in results for file in result.score_files]


def means_of(files: Sequence[ScoreFile], metrics: Collection[str]) -> dict[str, dict[str, float]]:
    """Return metric -> subject -> mean over its images, for these metrics only (a score file may hold more)."""
    means = subject_means(row for file in files for row in read_scores(file.csv))
    return {metric: means[metric] for metric in metrics if metric in means}


def choose_rows(experiment: Experiment, names: Any) -> list[RowSpec]:
    """Return the rows of these names in the experiment's order; all for None. InputError for an unknown name, and for
    none."""
    known = [row.name for row in experiment.rows]
    wanted = known if names is None else [names] if isinstance(names, str) else names
    if not isinstance(wanted, Sequence) or not wanted or any(name not in known for name in wanted):
        raise InputError(f"rows={names}: give names of rows of experiment '{experiment.name}': {', '.join(known)}")
    return [row for row in experiment.rows if row.name in wanted]


def with_dependencies(experiment: Experiment, rows: Sequence[RowSpec]) -> list[RowSpec]:
    """Return the rows and those whose gradients their kappas are relative to, in the experiment's order."""
    names = {row.name for row in rows}
    for row in reversed(experiment.rows):
        if row.name in names and row.kappa is not None:
            names.add(row.kappa.of)
    return [row for row in experiment.rows if row.name in names]


def group_into_sweeps(run: ExperimentRun, rows: Sequence[RowSpec]) -> list[list[list[str]]]:
    """Return sweeps that run one after the other, each of jobs that run at once, each of row names.

    Rows that write the same folder are one job (a method that transforms another's vectors writes that one's too). A
    row whose kappa is relative to another row's gradient is in a later sweep than that row.
    """
    jobs: list[tuple[set[str], list[RowSpec]]] = []  # what a job writes, and its rows
    for row in rows:
        outputs = _outputs(run, row)
        same = [job for job in jobs if job[0] & outputs]
        merged = [*(other for _, job in same for other in job), row]
        jobs = [*(job for job in jobs if job not in same), (outputs.union(*(written for written, _ in same)), merged)]
    sweeps: list[list[list[str]]] = []
    sweep_of: dict[str, int] = {}
    for _, job in jobs:
        names = [row.name for row in job]
        waits_for = {row.kappa.of for row in job if row.kappa} - set(names)
        number = max((sweep_of.get(name, -1) + 1 for name in waits_for), default=0)
        sweep_of |= dict.fromkeys(names, number)
        sweeps += [[] for _ in range(number + 1 - len(sweeps))]
        sweeps[number].append(names)
    return sweeps


def _outputs(run: ExperimentRun, row: RowSpec) -> set[str]:
    """Return what names the folders that a row writes."""
    if row.bound is not None:
        return {row.bound}
    if row.kappa is not None:
        return {row.name}  # its kappa, and with it its folder, is known after another row's training
    configs = run.train_configs(row)
    configs += [source_config(cfg) for cfg in configs if "source" in cfg.method]
    return {str(run_folder(config).path) for config in configs}
