"""The runs that a configuration asks for: where they lie, what of them is missing, and its training.

Imports no torch: what is wrong with the input, or already done, is answered first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import has_own_adapter
from dti_repro.artifacts.files import read_json, sha256
from dti_repro.artifacts.run_dir import (
    ConceptFolder,
    RunFolder,
    check_name,
    config_hash,
    has_content,
    is_whole,
)
from dti_repro.backbones.checkpoint import fingerprint, locate
from dti_repro.config import build, validate
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.photos import check_photos
from dti_repro.errors import InputError
from dti_repro.launch.devices import run_on_devices

HASHED_TRAINER = ("steps", "batch", "accumulate", "precision")
# Of a backbone: its weights are hashed themselves, and how it spares memory or time changes rounding only.
NOT_HASHED = ("path", "revision", "generation", "checkpointing", "compile")


def train(cfg: DictConfig) -> list[ConceptFolder]:
    """Train what is missing of the configured concepts; their folders, in the order asked for. Errors as
    train_missing."""
    return train_missing(cfg)[0]


def train_missing(cfg: DictConfig) -> tuple[list[ConceptFolder], int]:
    """As train, and how many concepts were trained here: not those that another process finished meanwhile.

    InputError before any model is loaded for anything that cannot be trained; DivergedError if a loss leaves
    the numbers.
    """
    validate("train", cfg)
    return train_concepts(cfg, build(cfg.concepts, ConceptSet).load())


def train_concepts(cfg: DictConfig, concepts: Sequence[Concept]) -> tuple[list[ConceptFolder], int]:
    """As train_missing, of a checked configuration's these concepts."""
    check_pack(cfg, len(concepts))
    run = run_folder(cfg)
    folders = [run.concept(concept.name) for concept in concepts]
    pending = [c for c, folder in zip(concepts, folders, strict=True) if not is_complete(cfg, folder)]
    for folder in folders:
        if is_complete(cfg, folder):
            check_metadata(folder, next(c for c in concepts if c.name == folder.name))
            print(f"done: {folder.path}")
    trained = 0
    if pending:
        for concept in pending:
            if run.concept(concept.name).is_done():
                print(f"not whole: {run.concept(concept.name).path}: what is missing is made again")
            check_photos(concept.images)
            check_metadata(run.concept(concept.name), concept)
        from dti_repro.training.trainer import train_pending

        work = partial(train_pending, cfg, run)
        trained = sum(run_on_devices(work, pending, cfg.trainer.devices, cfg.trainer.accelerator))
    return folders, trained


def run_folder(cfg: DictConfig) -> RunFolder:
    """Where the results of this configuration lie, whether they exist or not."""
    method = check_name(str(cfg.method.name), "method.name")
    backbone = check_name(cfg.backbone.name, "backbone.name")
    return RunFolder(Path(cfg.runs), backbone, method, config_hash(hashed(cfg)), int(cfg.seed))


def source_config(cfg: DictConfig) -> DictConfig:
    """The training that a method which transforms another's vectors (`method.source`) begins with."""
    source = OmegaConf.merge(cfg)
    OmegaConf.set_struct(source, False)
    source.method = cfg.method.source
    return source


def hashed(cfg: DictConfig) -> dict[str, Any]:
    """All that can change a vector, save the concept and the seed, which have folders of their own below it.
    Not here: packing, threads and device (which change rounding only), loggers, launchers, paths."""
    backbone = {k: v for k, v in _plain(cfg.backbone).items() if k not in NOT_HASHED}
    return {
        "method": _plain(cfg.method),
        "optim": _plain(cfg.optim),
        "backbone": {**backbone, "weights": fingerprint(locate(cfg.backbone.path, cfg.backbone.revision))},
        "templates": _plain(cfg.templates)["prompts"],
        "trainer": {key: cfg.trainer[key] for key in HASHED_TRAINER},
        **({"adapter": _plain(cfg.adapter)} if _adapts(cfg) else {}),
    }


def _adapts(cfg: DictConfig) -> bool:
    """The one adapter that has no settings is none."""
    return len(cfg.adapter) > 1


def check_pack(cfg: DictConfig, concepts: int) -> None:
    """InputError if an adapter would have to serve several of so many concepts."""
    if _adapts(cfg) and min(concepts, cfg.trainer.pack) > 1:
        raise InputError(
            f"an adapter's weights are one concept's own, and a pack would have {min(concepts, cfg.trainer.pack)}: "
            "add trainer.pack=1, which trains them one after the other, or adapter=none"
        )


def is_complete(cfg: DictConfig, folder: ConceptFolder) -> bool:
    """Done, with every snapshot that this configuration asks for, and with all other files of a run. provenance.json is
    none of them: only times are lost with it."""
    learned = [folder.embedding, *(folder.snapshot(step) for step in cfg.trainer.snapshots)]
    logged = "source" in cfg.method or folder.logged() == cfg.trainer.steps
    there = folder.facts.is_file() and has_content(folder.config) and logged and all(map(is_whole, learned))
    return there and (not _adapts(cfg) or all(map(has_own_adapter, learned)))


def facts(concept: Concept) -> dict[str, Any]:
    """What concept.json says: everything about a concept that can change its vector, and what its prompts need."""
    return {**_taught(concept), "class_word": concept.class_word, "live": concept.live}


def _taught(concept: Concept) -> dict[str, Any]:
    return {
        "name": concept.name,
        "placeholder": concept.placeholder,
        "initializer": concept.initializer,
        "property": concept.property,
        "images": [{"file": path.name, "sha256": sha256(path)} for path in concept.images],
    }


def check_metadata(folder: ConceptFolder, concept: Concept) -> None:
    """InputError if the folder was taught with other photos or another word than the concept has now."""
    if not folder.facts.is_file():
        return
    before, now = read_json(folder.facts, "remove that folder to train again"), _taught(concept)
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"concept '{concept.name}' is not the one that {folder.path} was trained with "
            f"(changed: {', '.join(changed)}): give it another name, or remove that folder"
        )


def _plain(node: DictConfig) -> Mapping[str, Any]:
    return OmegaConf.to_container(node, resolve=True)
