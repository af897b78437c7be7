"""The stages of an experiment: train, generate, score. Each computes what is missing.

Nothing heavy is imported unless something is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig

from dti_repro.artifacts.manifest import NAME
from dti_repro.artifacts.run_dir import ConceptFolder, gradient_norm
from dti_repro.artifacts.scores import read_scores, subject_means
from dti_repro.backbones.location import located
from dti_repro.config import build, target
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.spec import RowSpec
from dti_repro.inference.generator import draw_missing
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, expected
from dti_repro.inference.selection import image_folders_of_run, image_folders_of_text
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import ScoreFile, generated, mismatched, real_references
from dti_repro.training.runs import check_metadata, is_complete, run_folder, update_metadata
from dti_repro.training.train_missing import train_missing, with_annotations


@dataclass
class RowResult:
    """The files of one row, as far as its stages have run."""

    spec: RowSpec
    cfgs: list[DictConfig] = field(default_factory=list)  # of its trainings, one for each seed; none for a bound
    trained: int = 0  # trainings that were missing: concepts x seeds
    folders: list[ConceptFolder] = field(default_factory=list)  # of its trained concepts, seed by seed
    image_folders: list[ImageFolder] = field(default_factory=list)
    score_files: list[ScoreFile] = field(default_factory=list)

    def means(self, metrics: Collection[str]) -> dict[str, dict[str, float]]:
        """Return metric -> subject -> mean over its images, for these metrics only (a score file may hold more)."""
        return means_of(self.score_files, metrics)


def means_of(files: Sequence[ScoreFile], metrics: Collection[str]) -> dict[str, dict[str, float]]:
    means = subject_means(row for file in files for row in read_scores(file.csv))
    return {metric: means[metric] for metric in metrics if metric in means}


def train_rows(run: ExperimentRun, rows: Sequence[RowSpec], scoring_on: str = "auto") -> list[RowResult]:
    """Train what is missing, row by row. A relative kappa becomes a number when its other row is trained. InputError as
    _check_rows, before the first training."""
    results: dict[str, RowResult] = {}
    is_checked = False
    for k, row in enumerate(rows):
        row = with_kappa(row, results)
        result = results[row.name] = RowResult(row, run.train_configs(row))
        for cfg in result.cfgs:
            if not is_trained(run, cfg):
                if not is_checked:
                    _check_rows(run, rows[k:], scoring_on)
                    is_checked = True
                print(f"train {row.label}: {run_folder(cfg).path}", flush=True)
                result.trained += train_missing(cfg)[1]
            for folder in run.concept_folders(cfg):
                update_metadata(folder, run.concepts[folder.name])
                result.folders.append(folder)
    return list(results.values())


def _check_rows(run: ExperimentRun, rows: Sequence[RowSpec], scoring_on: str) -> None:
    """Raise InputError for a row that cannot be trained, for images that cannot be drawn and for evaluators that cannot
    be loaded or cannot read what a prompt expects, as far as this is known without the backbone. scoring_on: the
    accelerator of the scores."""
    from dti_repro.backbones.backbone import Backbone
    from dti_repro.backbones.load import device_of
    from dti_repro.metrics.base import ScoreMetric
    from dti_repro.training.checks import check_training

    for row in (row for row in rows if row.bound is None):
        cfg = run.train_configs(row)[0]
        try:
            check_training(cfg, with_annotations(cfg, list(run.concepts.values())))
        except InputError as error:
            raise InputError(f"experiment '{run.experiment.name}', row '{row.name}': {error}") from error
    cfg = run.generate_config()
    for accelerator in (cfg.accelerator, scoring_on):
        device_of(accelerator)
    sampling = GenerationConfig.of(cfg).sampling
    target(cfg.backbone._target_, Backbone).check_generation(located(cfg.backbone), **sampling)
    prompts = run.prompts()
    for name, config in run.metrics().items():
        metric = build(config, ScoreMetric, f"metric {name}")
        for concept in run.concepts.values():
            for prompt in prompts.about(concept.live).prompts:
                named = [run.concepts[other].class_word for other in prompt.names if other in run.concepts]
                metric.check(expected(prompt, named or [concept.class_word]) or {})
    if run.experiment.paths and (reader := run.experiment.paths.reader):
        metric = build(metric_config(reader), ScoreMetric, f"metric {reader}")
        for concept in run.concepts.values():
            metric.check({"class": concept.class_word})


def with_kappa(row: RowSpec, results: Mapping[str, RowResult]) -> RowSpec:
    """Return the row with its relative kappa as a number, from the row that it is relative to."""
    if row.bound is not None or row.kappa is None:
        return row
    gradient = gradient_norm(results[row.kappa.of].folders)
    if gradient is None:
        raise InputError(f"row '{row.name}' takes kappa of '{row.kappa.of}', which has no training log")
    return replace(row, overrides=(*row.overrides, f"method.prior.kappa={row.kappa.fraction * gradient:.2g}"))


def is_trained(run: ExperimentRun, cfg: DictConfig) -> bool:
    """Return whether all concepts of a training are there. InputError for one that was trained with other photos,
    another word or another start."""
    folders = run.concept_folders(cfg)
    if not all(is_complete(cfg, folder) for folder in folders):
        return False
    for folder in folders:
        check_metadata(cfg, folder, run.concepts[folder.name])
    return True


def generate_rows(run: ExperimentRun, results: Sequence[RowResult]) -> int:
    """Generate the missing images of all rows with one model, fill in their image folders, and return the number of
    generated images."""
    list_image_folders(run, results)
    image_folders = [image_folder for result in results for image_folder in result.image_folders]
    if missing := sum(len(image_folder.missing()) for image_folder in image_folders):
        print(f"generate: {missing} images", flush=True)
    return draw_missing(image_folders, run.generate_config())


def list_image_folders(run: ExperimentRun, results: Sequence[RowResult]) -> None:
    """Fill in the image folders of trained rows and of bounds, whether their images are drawn or not."""
    cfg = run.generate_config()
    for result in results:
        row_cfg = deepcopy(cfg)
        if result.spec.bound is None:
            row_cfg.run = str(result.folders[0].seed_folder)
            row_cfg.snapshot = result.spec.snapshot
            row_cfg.with_class |= any("{class}" in template for template in result.cfgs[0].templates.prompts)
            result.image_folders = image_folders_of_run(result.folders, row_cfg)
        elif result.spec.bound != "references":
            row_cfg.text, row_cfg.with_class = result.spec.bound, False
            result.image_folders = image_folders_of_text(row_cfg)


def list_score_files(run: ExperimentRun, results: Sequence[RowResult]) -> list[ScoreFile]:
    """Fill in the score files of all rows, and return them, with those that a search needs besides."""
    references = Path(run.runs) / run.generate_config().backbone.name / "references"
    for result in results:
        if result.spec.bound == "references":
            result.score_files = [
                real_references(concept, references / name / "scores" / "real.csv")
                for name, concept in run.concepts.items()
            ]
        else:
            result.score_files = [generated(folder.path / NAME, run.concepts) for folder in result.image_folders]
    files = [file for result in results for file in result.score_files]
    return files + (mismatched_files(results) if run.experiment.search else [])


def mismatched_files(results: Sequence[RowResult]) -> list[ScoreFile]:
    """Return the score files of the class word's images with the texts of other prompts."""
    return [mismatched(file) for result in results if result.spec.bound == "class" for file in result.score_files]
