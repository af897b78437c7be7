"""From a checked configuration to embeddings: loads the models, locks the folders, trains pack by pack."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.optim import Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.adapters.folder import copy_adapter
from dti_repro.artifacts.embedding import for_encoders, load_embeddings, save_embeddings
from dti_repro.artifacts.files import atomic_write, write_json
from dti_repro.artifacts.lock import BusyError, locked
from dti_repro.artifacts.provenance import provenance
from dti_repro.artifacts.run_dir import RunFolder, has_content
from dti_repro.backbones.base import Backbone
from dti_repro.backbones.checkpoint import check_words, commit, locate
from dti_repro.backbones.load import load_backbone
from dti_repro.config import build, target
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache, own_folder
from dti_repro.data.randomness import generator
from dti_repro.errors import InputError, OutOfMemoryError, is_out_of_memory
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.optim.sphere_optimizer import SphereOptimizer
from dti_repro.training.callbacks import Interruptible, OwnSignals, StepBar
from dti_repro.training.concept_state import ConceptState
from dti_repro.training.lit_module import InversionModule, Schedule
from dti_repro.training.runs import facts, hashed, is_complete, run_folder, source_config, train_concepts

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def train_pending(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> int:
    """Train these concepts of a run; how many of them it was, those left out that another process finished meanwhile.
    InputError for what only the method or the tokenizer can judge, still before a model is loaded."""
    method = build(cfg.method, TokenMethod | DerivedMethod)
    build(cfg.adapter, Adapter)
    checkpoint = locate(cfg.backbone.path, cfg.backbone.revision)
    for concept in concepts:
        check_words(checkpoint, concept.initializer, concept.placeholder)
    if isinstance(method, DerivedMethod):
        return _derive(cfg, run, concepts, method)
    _check_optimizer(cfg, method)
    if cfg.trainer.latents:
        own_folder(Path(cfg.trainer.latents))
    trained = 0
    busy: list[BusyError] = []
    for k in range(0, len(concepts), cfg.trainer.pack):
        pack = concepts[k : k + cfg.trainer.pack]
        with _owned(cfg, run, pack, busy) as free:
            if free:
                _train_pack(cfg, run, free)
                trained += len(free)
    _say_who_is_at_it(busy)
    return trained


def _say_who_is_at_it(busy: Sequence[BusyError]) -> None:
    """Only now: what is free is trained in any case."""
    if busy:
        more = f" (and {len(busy) - 1} more of these concepts)" if len(busy) > 1 else ""
        raise BusyError(f"{busy[0]}{more}")


def _check_optimizer(cfg: DictConfig, method: TokenMethod) -> None:
    name = cfg.optim._target_.split(".")[-1]
    if issubclass(target(cfg.optim._target_, Optimizer), SphereOptimizer) != method.on_sphere:
        kind = "unit directions, which" if method.on_sphere else "free vectors, which"
        fit = "spherical_sgd or adamw_projected" if method.on_sphere else "adamw"
        raise InputError(f"method '{run_folder(cfg).method}' learns {kind} optim {name} cannot step: use optim={fit}")
    build(cfg.optim, Optimizer, params=[torch.ones(1, 1, requires_grad=True)])  # which judges its settings


@contextmanager
def _owned(
    cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept], busy: list[BusyError]
) -> Iterator[list[Concept]]:
    """Lock the concepts' folders and say in them what is trained; those that another process has finished
    meanwhile are left out, and those that it is at, which go to `busy`."""
    with ExitStack() as stack:
        ours = []
        for concept in concepts:
            what = f"concept '{concept.name}' is being trained"
            try:
                stack.enter_context(locked(run.concept(concept.name).lock, what))
                ours.append(concept)
            except BusyError as error:
                busy.append(error)
        if ours and not has_content(run.config):
            with atomic_write(run.config) as temporary:
                temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(hashed(cfg))))
        free = [concept for concept in ours if not is_complete(cfg, run.concept(concept.name))]
        for concept in free:
            if not run.concept(concept.name).facts.is_file():  # nobody can say what the state there was taught with
                run.concept(concept.name).checkpoint.unlink(missing_ok=True)
            write_json(run.concept(concept.name).facts, facts(concept))
        yield free


def _optimizer(cfg: DictConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return build(cfg.optim, Optimizer, params=groups)


def _train_pack(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> None:
    began = time.time()
    torch.set_num_threads(cfg.trainer.threads)
    backbone = _load(cfg)
    adapter = build(cfg.adapter, Adapter)

    def sign(state: ConceptState) -> None:
        """Unless it is the record of a process that died before it wrote the embedding, and nothing was left to do."""
        about = {"resumed_from_step": state.resumed, **_made_with(cfg, backbone)}
        if state.resumed < cfg.trainer.steps or not has_content(state.folder.provenance):
            write_json(state.folder.provenance, {**provenance(began, backbone.device.type), **about})

    advice = (
        f"reduce trainer.batch ({cfg.trainer.batch}; trainer.accumulate makes up for it), trainer.pack "
        f"({len(concepts)} concepts) or backbone.resolution ({backbone.spec.resolution}), or give "
        "backbone.checkpointing=true; what is finished is kept"
    )
    random = generator(run.seed, *(concept.name for concept in concepts), "adapter")
    with _enough_memory("training", advice), adapter.attached(backbone, random):
        _teach(cfg, run, concepts, backbone, adapter, sign)


def _load(cfg: DictConfig) -> Backbone:
    with _enough_memory("loading the model", "give backbone.dtype=bfloat16, or a machine with more memory"):
        return load_backbone(cfg.backbone, cfg.trainer.accelerator)


@contextmanager
def _enough_memory(doing: str, advice: str) -> Iterator[None]:
    """OutOfMemoryError that gives the advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory while {doing}: {advice}") from error


def _made_with(cfg: DictConfig, backbone: Backbone) -> dict[str, Any]:
    checkpoint = {"folder": str(backbone.folder), "commit": commit(backbone.folder)}
    return {"checkpoint": checkpoint, "config": OmegaConf.to_container(cfg, resolve=True)}


def _teach(
    cfg: DictConfig,
    run: RunFolder,
    concepts: Sequence[Concept],
    backbone: Backbone,
    adapter: Adapter,
    finish: Callable[[ConceptState], None],
) -> None:
    encoder = {"device": backbone.device.type, "threads": cfg.trainer.threads, **hashed(cfg)["backbone"]}
    cache = LatentCache(Path(cfg.trainer.latents) if cfg.trainer.latents else None, encoder)
    concept_states = [
        ConceptState.prepare(
            backbone,
            c,
            run.concept(c.name),
            cfg.templates.prompts,
            run.seed,
            _header(run, c, backbone.spec.name),
            cache,
        )
        for c in concepts
    ]
    method = build(cfg.method, TokenMethod)
    method.initialise([state.start for state in concept_states], backbone.spec)
    schedule = Schedule(
        cfg.trainer.steps,
        cfg.trainer.batch,
        cfg.trainer.accumulate,
        cfg.trainer.checkpoint_every,
        frozenset(cfg.trainer.snapshots),
        cfg.trainer.max_loss,
        backbone.device.type != "cpu" if cfg.trainer.fuse == "auto" else cfg.trainer.fuse,
    )
    watch = _previewer(cfg, backbone) if cfg.trainer.preview_every else (lambda state, vectors: None)
    _fit(
        cfg,
        InversionModule(backbone, method, concept_states, partial(_optimizer, cfg), schedule, adapter, watch, finish),
    )


def _fit(cfg: DictConfig, module: InversionModule) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    bar = (
        StepBar(min(state.step for state in module.concept_states), cfg.trainer.steps) if cfg.trainer.progress else None
    )
    with warnings.catch_warnings(), Interruptible() as interruptible, bar.bar if bar else nullcontext():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        trainer = pl.Trainer(
            accelerator="gpu" if module.backbone.device.type == "cuda" else "cpu",  # auto would take others, too
            devices=1,
            precision=PRECISIONS[cfg.trainer.precision],
            max_epochs=1,
            logger=build(cfg.logger, Logger),
            callbacks=[*([bar] if bar else []), OwnSignals(), interruptible],
            plugins=[LightningEnvironment()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            log_every_n_steps=1,
        )
        trainer.fit(module)


def _derive(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept], method: DerivedMethod) -> int:
    """Train the source where it is missing, through the same door, and transform what it learned, snapshots too. How
    many were transformed."""
    began = time.time()
    source_cfg = source_config(cfg)
    source_cfg.trainer.devices = 1  # this is one of them
    train_concepts(source_cfg, concepts)
    source = run_folder(source_cfg)
    backbone = _load(cfg)
    busy: list[BusyError] = []
    with _owned(cfg, run, concepts, busy) as free:
        for concept in free:
            folder, origin = run.concept(concept.name), source.concept(concept.name)
            about = {"source": str(origin.path), **_made_with(cfg, backbone)}
            write_json(folder.provenance, {**provenance(began, backbone.device.type), **about})
            plain = _header(run, concept, backbone.spec.name)
            files = [(origin.snapshot(step), folder.snapshot(step)) for step in cfg.trainer.snapshots]
            for theirs, ours in [*files, (origin.embedding, folder.embedding)]:
                header = plain | copy_adapter(theirs, ours)
                learned = for_encoders(load_embeddings(theirs), backbone.spec, theirs)
                save_embeddings(ours, concept.placeholder, method.derive(learned, backbone.spec), header)
    _say_who_is_at_it(busy)
    return len(free)


def _header(run: RunFolder, concept: Concept, base_model: str) -> dict[str, str]:
    return {
        "method": run.method,
        "config_hash": run.config_hash,
        "base_model": base_model,
        "concept": concept.name,
        "initializer": concept.initializer,
    }


def _previewer(cfg: DictConfig, backbone: Backbone) -> Any:
    from dti_repro.experiments.figures import Grid

    def watch(state: ConceptState, vectors: dict[str, Tensor]) -> None:
        if state.step % cfg.trainer.preview_every == 0:
            word = state.concept.placeholder
            prompts = [template.replace("{}", word) for template in cfg.trainer.preview_prompts]
            images = backbone.generate(prompts, {word: vectors}, [0] * len(prompts), steps=20, guidance=5.0)
            grid = Grid(columns=prompts, rows={f"step {state.step}": images})
            grid.save(state.folder.previews / f"step_{state.step:06d}.png")

    return watch
