"""The runs of a configuration: where they lie and what of them is missing.

No torch is imported here: what is wrong with the input, or already done, is said within a second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

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
from dti_repro.config import build
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.photos import check_photos
from dti_repro.errors import InputError
from dti_repro.launch.command import SECRETS_STAY_OUT, secret_in
from dti_repro.launch.devices import check_count, run_on_devices

HASHED_TRAINER = ("steps", "batch", "accumulate", "precision")
# Of a backbone: its weights are hashed themselves, and how it spares memory or time changes rounding only.
NOT_HASHED = ("path", "revision", "generation", "checkpointing", "compile")
COUNTS = {
    "steps": 10**7,
    "batch": 4096,
    "accumulate": 4096,
    "threads": 1024,
    "pack": 4096,
    "checkpoint_every": 10**7,
    "devices": 1024,
}
"""And the most that each may be: more is a slip, and would be found out when the memory is full."""


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
    check(cfg)
    if concepts is None:
        concepts = build(cfg.concepts, ConceptSet).load()
    check_pack(cfg, len(concepts))
    run = run_folder(cfg)
    folders = [run.concept(concept.name) for concept in concepts]
    pending = []
    for concept, folder in zip(concepts, folders, strict=True):
        check_metadata(folder, concept)
        if is_complete(cfg, folder):
            print(f"done: {folder.path}")
            continue
        if folder.is_done():
            print(f"not whole: {folder.path}: what is missing is made again")
        check_photos(concept.images)
        pending.append(concept)
    if not pending:
        return folders, 0
    from dti_repro.training.trainer import train_pending

    work = partial(train_pending, cfg, run)
    return folders, sum(run_on_devices(work, pending, cfg.trainer.devices, cfg.trainer.accelerator))


def run_folder(cfg: DictConfig) -> RunFolder:
    """Return the folder of this configuration's results, whether it exists or not."""
    method = check_name(str(cfg.method.name), "method.name")
    return RunFolder(Path(cfg.runs), cfg.backbone.name, method, config_hash(hashed(cfg)), int(cfg.seed))


def source_config(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the training whose vectors a derived method transforms (`method.source`)."""
    source = OmegaConf.merge(cfg)
    OmegaConf.set_struct(source, False)
    source.method = cfg.method.source
    return source


def hashed(cfg: DictConfig) -> dict[str, Any]:
    """Return all keys that can change a vector. Left out are the concept and the seed, which have folders of their own
    below the hash, and packing, threads and device (which change rounding only), loggers, launchers and paths."""
    backbone = {k: v for k, v in _plain(cfg.backbone).items() if k not in NOT_HASHED}
    return {
        "method": _plain(cfg.method),
        "optim": _plain(cfg.optim),
        "backbone": {**backbone, "weights": fingerprint(locate(cfg.backbone.path, cfg.backbone.revision))},
        "templates": _plain(cfg.templates)["prompts"],
        "trainer": {key: cfg.trainer[key] for key in HASHED_TRAINER},
        **({"adapter": _plain(cfg.adapter)} if _has_adapter(cfg) else {}),
    }


def _has_adapter(cfg: DictConfig) -> bool:
    """Return whether an adapter is trained. The one without settings is `none`."""
    return len(cfg.adapter) > 1


def check_pack(cfg: DictConfig, concepts: int) -> None:
    """Raise InputError if several of so many concepts would share an adapter."""
    if _has_adapter(cfg) and min(concepts, cfg.trainer.pack) > 1:
        raise InputError(
            f"an adapter's weights are one concept's own, and a pack would have {min(concepts, cfg.trainer.pack)}: "
            "add trainer.pack=1, which trains them one after the other, or adapter=none"
        )


def is_complete(cfg: DictConfig, folder: ConceptFolder) -> bool:
    """Return whether the concept is trained, with every snapshot that this configuration asks for, and all files of a
    run are there. provenance.json may be missing: only times are lost with it."""
    embeddings = [folder.embedding, *(folder.snapshot(step) for step in cfg.trainer.snapshots)]
    logged = "source" in cfg.method or folder.logged() == cfg.trainer.steps
    whole = folder.metadata.is_file() and has_content(folder.config) and logged and all(map(is_whole, embeddings))
    return whole and (not _has_adapter(cfg) or all(map(has_own_adapter, embeddings)))


def concept_metadata(concept: Concept) -> dict[str, Any]:
    """Return the content of concept.json: all of a concept that can change its vectors, and what its prompts need."""
    return {**_trained_on(concept), "class_word": concept.class_word, "live": concept.live}


def _trained_on(concept: Concept) -> dict[str, Any]:
    return {
        "name": concept.name,
        "placeholder": concept.placeholder,
        "initializer": concept.initializer,
        "property": concept.property,
        "images": [{"file": path.name, "sha256": sha256(path)} for path in concept.images],
    }


def check_metadata(folder: ConceptFolder, concept: Concept) -> None:
    """Raise InputError if the folder was trained with other photos or another word than the concept has now."""
    if not folder.metadata.is_file():
        return
    before, now = read_json(folder.metadata, "remove that folder to train again"), _trained_on(concept)
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"concept '{concept.name}' is not the one that {folder.path} was trained with "
            f"(changed: {', '.join(changed)}): give it another name, or remove that folder"
        )


def check(cfg: DictConfig) -> None:
    """Values that need no torch to be judged; methods, priors and optimizers judge their own."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key or str(error).split(':')[-1].strip()} is not set") from error
    for key in COUNTS:
        check_count(f"trainer.{key}", cfg.trainer[key], COUNTS[key])
    for key, values in (("trainer.snapshots", cfg.trainer.snapshots), *_texts(cfg).items()):
        if not OmegaConf.is_list(values):
            raise InputError(f"{key} is {values}: a list is needed, such as [{values}]")
    for key in ("runs", "trainer.latents"):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, str) and not (key == "trainer.latents" and value is None):
            raise InputError(f"{key} is {value}: a folder is needed")
    if not isinstance(cfg.trainer.progress, bool):
        raise InputError(f"trainer.progress is {cfg.trainer.progress}: true or false is needed")
    for step in cfg.trainer.snapshots:
        if not isinstance(step, int) or not 1 <= step <= cfg.trainer.steps:
            raise InputError(f"trainer.snapshots has {step}: steps are 1 to {cfg.trainer.steps}")
    if not (_has_adapter(cfg) and cfg.optim.lr == 0):  # then the adapter alone is trained
        _check_positive("optim.lr", cfg.optim.lr)
    _check_positive("trainer.max_loss", cfg.trainer.max_loss)
    if not isinstance(cfg.trainer.preview_every, int) or cfg.trainer.preview_every < 0:
        raise InputError(f"trainer.preview_every is {cfg.trainer.preview_every}: a whole number >= 0 is needed")
    if cfg.trainer.precision not in ("fp32", "bf16"):
        raise InputError(f"trainer.precision '{cfg.trainer.precision}' is neither fp32 nor bf16")
    if cfg.trainer.fuse not in ("auto", True, False):
        raise InputError(f"trainer.fuse '{cfg.trainer.fuse}' is none of auto, true, false")
    if cfg.trainer.accelerator not in ("cpu", "gpu", "auto"):
        raise InputError(f"trainer.accelerator '{cfg.trainer.accelerator}' is none of cpu, gpu, auto")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int):
        raise InputError(f"seed is {cfg.seed}: a whole number is needed")
    if not cfg.templates.prompts:
        raise InputError("templates.prompts is empty")
    for template in itertools.chain(*_texts(cfg).values()):
        if str(template).count("{}") != 1:
            raise InputError(f"prompt template '{template}' must have one {{}} for the word")
    check_name(str(cfg.backbone.name), "backbone.name")
    if secret := secret_in(plain):
        raise InputError(f"{secret}: {SECRETS_STAY_OUT}")


def _texts(cfg: DictConfig) -> dict[str, Any]:
    return {"templates.prompts": cfg.templates.prompts, "trainer.preview_prompts": cfg.trainer.preview_prompts}


def _check_positive(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise InputError(f"{key} is {value}: a number above 0 is needed")


def _plain(node: DictConfig) -> Mapping[str, Any]:
    return OmegaConf.to_container(node, resolve=True)
