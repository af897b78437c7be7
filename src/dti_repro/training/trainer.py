"""From a checked configuration to embeddings: load the models, lock the folders, train pack by pack."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import LightningEnvironment

from dti_repro.adapters.base import Adapter
from dti_repro.adapters.folder import copy_adapter
from dti_repro.artifacts.embedding import for_encoders, load_embeddings, save_embeddings
from dti_repro.artifacts.files import refuse_links, user_path, write_file, write_json
from dti_repro.artifacts.lock import BusyError, locked_if_free
from dti_repro.artifacts.provenance import SOURCE_DIGEST, provenance
from dti_repro.artifacts.run_dir import ConceptFolder, RunFolder, embedding_files, embedding_sha256, has_content
from dti_repro.artifacts.tracking import run_label, tracking
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import InitializerEmbedding
from dti_repro.backbones.cpu_attention import product_attention
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.location import commit
from dti_repro.config import build
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache, make_private_folder
from dti_repro.data.photos import warn_about_photos
from dti_repro.data.randomness import generator
from dti_repro.data.views import Framing
from dti_repro.errors import DivergedError, InputError, OutOfMemoryError, StoppedError, is_out_of_memory
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.methods.initializers import resized
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.callbacks import ConceptCheckpoint, Previews, Signals, StepBar
from dti_repro.training.concept_state import ConceptState
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.runs import (
    check_metadata,
    concept_metadata,
    hashed,
    is_complete,
    run_folder,
    snapshot_steps,
    source_config,
    start_of,
)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def train_pending(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> int:
    """Train these concepts of a run, for which `check_training` found nothing wrong. Return how many they were, without
    those that another process finished meanwhile.

    InputError for a symbolic link in a folder, and for a concept that another process has begun with other photos.
    DivergedError or BusyError, after all others are trained, if a training diverged or another process trains some of
    them.
    """
    for folder in (run.concept(concept.name) for concept in concepts):
        refuse_links(folder.path, *folder.path.parents[:2], folder.log, folder.snapshot(0).parent, folder.previews)
    is_derived = "source" in cfg.method
    if cfg.trainer.latents and not is_derived:
        make_private_folder(user_path(cfg.trainer.latents))
    trained = 0
    busy: list[BusyError] = []
    diverged: list[DivergedError] = []
    for k in range(0, len(concepts), cfg.trainer.pack):
        pack = concepts[k : k + cfg.trainer.pack]
        locks = ((c, run.concept(c.name).lock, f"concept '{c.name}' is being trained") for c in pack)
        with locked_if_free(locks, busy) as mine:
            pending = _pending(cfg, run, mine)
            trained += len(pending)
            while pending:
                try:
                    (_derive if is_derived else _train_pack)(cfg, run, pending)
                    pending = []
                except DivergedError as error:  # the others go on without it
                    diverged.append(error)
                    trained -= 1
                    if len(concepts) > 1:
                        print(f"{error}; the others go on", file=sys.stderr)
                    others = [concept for concept in pending if concept.name != error.concept]
                    pending = _pending(cfg, run, others)  # some of them may have ended
    if diverged:
        raise diverged[0]
    if busy:
        more = f" (and {len(busy) - 1} more of these concepts)" if len(busy) > 1 else ""
        raise BusyError(f"{busy[0]}{more}")
    return trained


def _pending(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> list[Concept]:
    """Return which of these locked concepts are not complete, and write config.yaml and their concept.json. InputError
    for one that another process has begun with other photos since the command began."""
    if concepts and not has_content(run.config):
        write_file(run.config, OmegaConf.to_yaml(OmegaConf.create(hashed(cfg))))
    pending = [concept for concept in concepts if not is_complete(cfg, run.concept(concept.name))]
    for concept in pending:
        folder = run.concept(concept.name)
        check_metadata(cfg, folder, concept)
        if not folder.metadata.is_file():  # nobody can say on which photos it was trained: it starts again
            for file in (folder.checkpoint, folder.log, *embedding_files(folder.embedding).values()):
                file.unlink(missing_ok=True)
        write_json(folder.metadata, concept_metadata(concept, start_of(cfg, concept)))
    return pending


def _train_pack(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> None:
    began = time.time()
    torch.set_num_threads(cfg.trainer.threads)
    backbone = _load(cfg)

    def complete(state: ConceptState) -> None:
        """Write provenance.json, unless a process died between it and the embedding, and no step was left to do."""
        if state.resumed < state.step or not has_content(state.folder.provenance):
            _write_provenance(cfg, state.folder, backbone, began, resumed_from_step=state.resumed)

    adapter = build(cfg.adapter, Adapter)
    advice = (
        f"reduce trainer.batch ({cfg.trainer.batch}; trainer.accumulate makes up for it), trainer.pack "
        f"({len(concepts)} concepts) or backbone.resolution ({backbone.spec.resolution}), or give "
        "backbone.checkpointing=true; what is finished is kept"
    )
    random = generator(run.seed, *(concept.name for concept in concepts), "adapter")
    with _enough_memory("training", advice), adapter.attached(backbone, random):
        method = build(cfg.method, TokenMethod)
        states = _prepare(cfg, run, concepts, backbone, method)
        method.initialise([state.dataset.initializer for state in states], backbone.spec)
        for c, state in enumerate(states):
            positions = state.dataset.initializer.positions
            for encoder, rows in method.vectors(c).items():
                if rows.shape[-2] != positions:  # the others would not be trained
                    raise InputError(
                        f"method: it has {rows.shape[-2]} vectors for concept '{state.name}' in {encoder}, and a "
                        f"prompt reads {positions}: a method makes one vector for each row of its initializer"
                    )
            method.check_extra_prompts(state.dataset.extra_tokens, state.dataset.extra_class_tokens)
        _fit(cfg, run, InversionModule(backbone, adapter, method, states, cfg), ConceptCheckpoint(complete))


def _prepare(
    cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept], backbone: Backbone, method: TokenMethod
) -> list[ConceptState]:
    encoder = {"device": backbone.device.type, "threads": cfg.trainer.threads, **hashed(cfg)["backbone"]}
    cache = LatentCache(user_path(cfg.trainer.latents) if cfg.trainer.latents else None, encoder)
    samples, framing = cfg.trainer.batch * cfg.trainer.accumulate, Framing(cfg.trainer.crop, cfg.trainer.crops)
    states = []
    for concept in concepts:
        warn_about_photos(concept.name, concept.images, backbone.spec.resolution, whole=framing.crop == "none")
        initializer = initializer_embedding(cfg, concept, backbone)
        texts = cfg.templates.prompts, method.extra_prompts(concept.live)
        if cfg.trainer.preview_every:
            previewed = [concept.fill(template) for template in cfg.trainer.preview_prompts]
            backbone.tokenize(previewed, {concept.placeholder: initializer.positions}, backbone.generation_prefix)
        padded = backbone.pads_directions and method.on_sphere
        dataset = ConceptDataset(backbone, concept, initializer, *texts, run.seed, samples, cache, framing, padded)
        header = run.header(concept.name, concept.initializer)
        states.append(ConceptState(cfg, dataset, run.concept(concept.name), header))
    return states


def initializer_embedding(cfg: DictConfig, concept: Concept, backbone: Backbone) -> InitializerEmbedding:
    """Return what the concept's vectors start from: `method.vectors` of them, by default one for each token of the
    initializer, or of the embedding that `method.init` names."""
    initializer = backbone.embed_initializer(concept.name, concept.initializer, cfg.seed)
    path, wanted = start_of(cfg, concept), cfg.method.get("vectors")
    found, source = initializer.positions, f"the initializer '{concept.initializer}'"
    if path is not None:
        start = for_encoders(load_embeddings(path), backbone.spec, path)
        found, source = len(next(iter(start.values()))), str(path)
        initializer = replace(resized(initializer, found), start=start, distinct=None)
    if wanted is None or wanted == found:
        return initializer
    if wanted < found:
        print(f"{concept.name}: method.vectors={wanted} takes the first of the {found} vectors of {source}")
    return resized(initializer, wanted)


def _fit(cfg: DictConfig, run: RunFolder, module: InversionModule, checkpoint: ConceptCheckpoint) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    signals = Signals()
    bars = [StepBar()] if cfg.trainer.progress else []
    names = [state.name for state in module.states]
    words = (run.method, run_label(names), f"seed{run.seed}", run.config_hash)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch._dynamo")
        on_cpu = module.backbone.device.type == "cpu"
        attention = product_attention() if on_cpu else nullcontext()
        with signals, attention, tracking(cfg, "train", *words) as tracker:
            previews = [Previews(tracker)] if cfg.trainer.preview_every else []
            trainer = pl.Trainer(
                accelerator="gpu" if module.backbone.device.type == "cuda" else "cpu",  # auto would take others, too
                devices=1,
                precision=PRECISIONS[cfg.trainer.precision],
                max_epochs=1,
                logger=tracker.logger or False,
                callbacks=[*previews, checkpoint, *bars, signals],
                plugins=[LightningEnvironment()],
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,
                log_every_n_steps=1,
            )
            trainer.fit(module)
    if signals.stopped:
        step = min(state.step for state in module.states)
        where = f"step {step} of {cfg.trainer.steps} ({', '.join(names)})"
        raise StoppedError(f"stopped after {where}: the same command goes on from there")


def _derive(cfg: DictConfig, run: RunFolder, concepts: Sequence[Concept]) -> None:
    """Transform what the source's training learned of these concepts, snapshots too."""
    began = time.time()
    method = build(cfg.method, DerivedMethod)
    source = run_folder(source_config(cfg))
    backbone = _load(cfg)
    for concept in concepts:
        folder, origin = run.concept(concept.name), source.concept(concept.name)
        for file in embedding_files(folder.embedding).values():  # else it would pass for one of the new source
            file.unlink()
        more = {"source": str(origin.path), SOURCE_DIGEST: embedding_sha256(origin.embedding)}
        _write_provenance(cfg, folder, backbone, began, **more)
        paths = [(origin.snapshot(step), folder.snapshot(step)) for step in snapshot_steps(cfg, folder)]
        for path, derived in [*paths, (origin.embedding, folder.embedding)]:
            header = run.header(concept.name, concept.initializer) | copy_adapter(path, derived)
            vectors = for_encoders(load_embeddings(path), backbone.spec, path)
            save_embeddings(derived, concept.placeholder, method.derive(vectors, backbone.spec), header)


def _load(cfg: DictConfig) -> Backbone:
    with _enough_memory("loading the model", "give backbone.dtype=bfloat16, or a machine with more memory"):
        return load_backbone(cfg.backbone, cfg.trainer.accelerator)


@contextmanager
def _enough_memory(doing: str, advice: str) -> Iterator[None]:
    """Turn an error of too little memory into OutOfMemoryError with this advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory while {doing}: {advice}") from error


def _write_provenance(cfg: DictConfig, folder: ConceptFolder, backbone: Backbone, began: float, **more: Any) -> None:
    checkpoint = {"folder": str(backbone.folder), "commit": commit(backbone.folder)}
    config = OmegaConf.to_container(cfg, resolve=True)
    record = {**provenance(began, backbone.device.type), "checkpoint": checkpoint, "config": config, **more}
    write_json(folder.provenance, record)
