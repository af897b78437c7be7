"""An experiment's stages in one process: train, generate, score. Each computes what is missing and nothing else.

Nothing heavy is imported unless something is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.manifest import NAME
from dti_repro.artifacts.run_dir import ConceptFolder, config_hash
from dti_repro.artifacts.training_facts import gradient_norm
from dti_repro.config import build, validate
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.prompts import PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.inference.generator import draw
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder
from dti_repro.inference.selection import image_seeds, of_run, of_text
from dti_repro.launch.command_line import compose
from dti_repro.launch.failures import explain
from dti_repro.metrics.evaluator import ScoreFile, generated, real_references
from dti_repro.training.runs import check_metadata, check_pack, is_complete, run_folder, train_missing

ADAMW = "torch.optim.AdamW"


@dataclass(frozen=True)
class ExperimentRun:
    """An experiment with the overrides of this call. ``concepts`` by name; empty: those of the configuration."""

    experiment: Experiment
    runs: str
    setup: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    concepts: Mapping[str, Concept] = field(default_factory=dict)

    def train_configs(self, row: RowSpec) -> list[DictConfig]:
        """One for each training seed. InputError that names the experiment and the row for anything that
        conf/train.yaml does not take."""
        own = (*self.experiment.train, *row.overrides, *self.train)
        self._check_subjects(row.name, own)
        seeds = self.experiment.training_seeds
        fixed = [o for o in (*self.experiment.setup, *self.setup, *own) if o.lstrip("+").startswith("seed=")]
        if seeds and fixed:
            both = f"{fixed[0]} beside training_seeds={list(seeds)}"
            raise InputError(f"experiment '{self.experiment.name}': {both}: leave one of them out")
        choices = [(*own, f"seed={seed}") for seed in seeds] or [own]
        return [self._config("train", row.name, choice) for choice in choices]

    def generate_config(self, row: str = "any") -> DictConfig:
        own = (*self.experiment.generate, *self.generate)
        self._check_subjects(row, own)
        return self._config("generate", row, own)

    def _check_subjects(self, row: str, own: Sequence[str]) -> None:
        """InputError for a row with other subjects than the others."""
        if other := [o for o in own if re.match(r"[+~]*concepts\b", o)]:
            raise InputError(
                f"experiment '{self.experiment.name}', row '{row}': {other[0]}: all rows have the same "
                "subjects, so this belongs into setup"
            )

    def choose_concepts(self, most: int | None) -> ExperimentRun:
        """With the first ``most`` of the configured concepts (by name), or all."""
        concepts: list[Concept] = build(self.generate_config().concepts, ConceptSet).load()
        limits = [n for n in (most, self.experiment.subjects) if n is not None]
        chosen = sorted(concepts, key=lambda concept: concept.name)[: min(limits, default=None)]
        return replace(self, concepts={concept.name: concept for concept in chosen})

    def prompts(self) -> PromptSet:
        return load_prompts(OmegaConf.to_container(self.generate_config()).get("prompts"))

    def seeds(self) -> list[int]:
        return image_seeds(OmegaConf.to_container(self.generate_config()).get("seeds"))

    def _config(self, stage: str, row: str, own: Sequence[str]) -> DictConfig:
        overrides = (*self.experiment.setup, *self.setup, *own)
        try:
            cfg = deepcopy(_compose(stage, overrides))
        except InputError as error:
            raise InputError(f"experiment '{self.experiment.name}', row '{row}': {error}") from error
        cfg.runs = self.runs
        if self.concepts and "names" in cfg.concepts:
            cfg.concepts.names = list(self.concepts)
        return cfg


@cache
def _compose(stage: str, overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of a command; InputError for what it does not take."""
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):  # the yaml may come from anyone
        raise InputError("hydra's settings are no part of an experiment: give them on the command line")
    try:
        cfg = compose(stage, overrides)
        OmegaConf.set_struct(cfg, False)
        del cfg.hydra
        OmegaConf.set_struct(cfg, True)
        validate(stage, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error, stage, overrides)) from error
    return cfg


@dataclass
class RowState:
    """A row on its way to the table."""

    spec: RowSpec
    cfgs: list[DictConfig] = field(default_factory=list)  # of its trainings, one for each seed; none for a bound
    trained: int = 0  # concepts that were missing, each as often as it is trained
    folders: list[ConceptFolder] = field(default_factory=list)  # of its concepts, trained, seed by seed
    image_folders: list[ImageFolder] = field(default_factory=list)
    files: list[ScoreFile] = field(default_factory=list)


def check_rows(plan: ExperimentRun) -> None:
    """Compose and judge every row and the generation before the first one is trained. InputError."""
    for row in plan.experiment.rows:
        if row.bound is None:
            for cfg in plan.train_configs(row):
                check_pack(cfg, len(plan.concepts))
    plan.prompts()
    plan.seeds()
    GenerationConfig.of(plan.generate_config())


def learn(plan: ExperimentRun, rows: Sequence[RowSpec]) -> list[RowState]:
    """Train what is missing, row by row; a relative kappa is resolved when the row that it refers to is trained."""
    states: dict[str, RowState] = {}
    for row in rows:
        if row.bound is None and row.kappa is not None:
            gradient = gradient_norm(states[row.kappa.of].folders)
            if gradient is None:
                raise InputError(f"row '{row.name}' takes kappa of '{row.kappa.of}', which has no training log")
            row = replace(row, overrides=(*row.overrides, row.kappa.override(gradient)))
        states[row.name] = RowState(row) if row.bound else _learn(plan, row)
    return list(states.values())


def _learn(plan: ExperimentRun, row: RowSpec) -> RowState:
    state = RowState(row, plan.train_configs(row))
    for cfg in state.cfgs:
        run = run_folder(cfg)
        folders = [run.concept(name) for name in plan.concepts]
        if all(is_complete(cfg, folder) for folder in folders):
            for folder in folders:
                check_metadata(folder, plan.concepts[folder.name])
        else:
            print(f"train {row.label}: {run.path}", flush=True)
            state.trained += train_missing(cfg)[1]
        state.folders += folders
    return state


def draw_rows(plan: ExperimentRun, states: Sequence[RowState]) -> int:
    """Generate the missing pictures of all rows with one model; fills in their image folders. Returns how many."""
    prompts, seeds = plan.prompts(), plan.seeds()
    cfg = plan.generate_config()
    settings = GenerationConfig.of(cfg)
    for state in states:
        own = deepcopy(cfg)
        if state.spec.bound is None:
            own.run = str(state.folders[0].seed_folder)
            state.image_folders = of_run(state.folders, own, prompts, seeds, settings)
        elif state.spec.bound != "references":
            own.text = state.spec.bound
            state.image_folders = of_text(own, prompts, seeds, settings)
    image_folders = [image_folder for state in states for image_folder in state.image_folders]
    missing = sum(len(image_folder.missing()) for image_folder in image_folders)
    if not missing:
        return 0
    print(f"generate: {missing} images", flush=True)
    return draw(image_folders, cfg, settings)


def list_scores(plan: ExperimentRun, states: Sequence[RowState]) -> list[ScoreFile]:
    """The score files of all rows; fills them in."""
    backbone = plan.generate_config().backbone.name
    for state in states:
        if state.spec.bound == "references":
            root = Path(plan.runs) / backbone / "references"
            state.files = [
                real_references(concept, root / name / "scores" / "real.csv") for name, concept in plan.concepts.items()
            ]
        else:
            state.files = [generated(image_folder.path / NAME, plan.concepts) for image_folder in state.image_folders]
    return [file for state in states for file in state.files]


def start_norms(plan: ExperimentRun, states: Sequence[RowState]) -> dict[str, dict[str, float]]:
    """Row -> {"start": mean norm at the start, and with AdamW "noise": what it gives on random gradients}, of its
    first training.

    Rows without a training of their own are left out. Kept in the row's seed folder, as the start needs the text
    encoder, under a name for these concepts: no two jobs write one file.
    """
    found = {}
    for state in states:
        if not state.cfgs or "source" in state.cfgs[0].method:
            continue
        concepts = config_hash({"concepts": list(plan.concepts)})
        cache = state.folders[0].seed_folder / f"start_{concepts}.json"
        if not cache.is_file():
            write_json(cache, _start_norms(plan, state.cfgs[0]))
        found[state.spec.name] = norms = read_json(cache, "remove it")
        if not all(type(norm) is float and math.isfinite(norm) for norm in norms.values()):
            raise InputError(f"{cache} is damaged: remove it")
    return found


def _start_norms(plan: ExperimentRun, cfg: DictConfig) -> dict[str, float]:
    import torch

    from dti_repro.backbones.load import load_backbone
    from dti_repro.experiments.noise_norm import AdamWRun, norm_on_noise
    from dti_repro.methods.base import TokenMethod

    backbone = load_backbone(cfg.backbone, cfg.trainer.accelerator)
    method = build(cfg.method, TokenMethod)
    starts = [backbone.start(c.name, c.initializer, cfg.seed) for c in plan.concepts.values()]
    method.initialise(starts, backbone.spec)
    vectors = [v for i in range(len(starts)) for v in method.export(i).values()]
    start = torch.cat([v.norm(dim=-1) for v in vectors]).mean().item()
    if cfg.optim._target_ != ADAMW:
        return {"start": start}
    optim = cfg.optim
    run = AdamWRun(
        dim=vectors[0].shape[-1],
        steps=cfg.trainer.steps,
        initial_norm=start,
        lr=optim.lr,
        betas=tuple(optim.betas),
        eps=float(optim.eps),
        weight_decay=optim.weight_decay,
    )
    return {"start": start, "noise": norm_on_noise(run)}
