"""Train what is missing of a configuration.

No torch is imported before something is missing: wrong input and finished work are reported within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from omegaconf import DictConfig

from dti_repro.artifacts.files import user_path
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.location import on_this_machine
from dti_repro.config import build, validate
from dti_repro.data.captions import CAPTIONS, with_captions
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.masks import check_training_images, with_masks
from dti_repro.launch.devices import run_on_devices
from dti_repro.training.runs import (
    check_metadata,
    check_pack,
    is_complete,
    run_folder,
    source_config,
    update_metadata,
)


def train(cfg: DictConfig) -> list[ConceptFolder]:
    """Train what is missing of the configured concepts; return their folders, in the order of `concepts.names`. Errors
    as train_missing."""
    return train_missing(cfg)[0]


def train_missing(cfg: DictConfig, concepts: Sequence[Concept] | None = None) -> tuple[list[ConceptFolder], int]:
    """Train what is missing of these concepts, by default the configured ones. Return their folders, and how many were
    trained here: not those that another process finished meanwhile.

    InputError before any model is loaded for anything that cannot be trained; BusyError if another process trains one
    of the concepts; DivergedError if a loss is not finite or exceeds `trainer.max_loss`.
    """
    validate("train", cfg)
    if concepts is None:
        concepts = build(cfg.concepts, ConceptSet).load()
    concepts = with_annotations(cfg, concepts)
    check_pack(cfg, len(concepts))
    if on_this_machine(cfg.backbone) is None:  # before minutes of a download
        for concept in concepts:
            check_training_images(concept, cfg.trainer.crop)
    run = run_folder(cfg)
    folders = [run.concept(concept.name) for concept in concepts]
    pending = []
    for concept, folder in zip(concepts, folders, strict=True):
        check_metadata(cfg, folder, concept)
        if is_complete(cfg, folder):
            update_metadata(folder, concept)
            print(f"done: {folder.path}")
            continue
        if folder.is_done():
            print(f"not whole: {folder.path}: what is missing is made again")
        check_training_images(concept, cfg.trainer.crop)
        pending.append(concept)
    if not pending:
        return folders, 0
    from dti_repro.training.checks import check_training
    from dti_repro.training.trainer import train_pending

    check_training(cfg, pending)
    if "source" in cfg.method:
        train_missing(source_config(cfg), pending)
    work = partial(train_pending, cfg, run)
    return folders, sum(run_on_devices(work, pending, cfg.trainer.devices, cfg.trainer.accelerator))


def with_annotations(cfg: DictConfig, concepts: Sequence[Concept]) -> Sequence[Concept]:
    """Return the concepts with the captions and masks of their photos that the training reads. InputError for one that
    is missing."""
    if cfg.templates.prompts == CAPTIONS:
        concepts = [with_captions(concept) for concept in concepts]
    if cfg.trainer.masks_in_loss:
        concepts = [with_masks(concept, user_path(cfg.trainer.masks)) for concept in concepts]
    return concepts
