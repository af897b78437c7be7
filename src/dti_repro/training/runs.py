"""The runs that a configuration asks for: where they lie, what of them is missing, and its training.

Imports no torch: what is wrong with the input, or already done, is answered first.
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
    """Train what is missing of the configured concepts; their folders, in the order asked for. Errors as
    train_missing."""
    return train_missing(cfg)[0]


def train_missing(cfg: DictConfig) -> tuple[list[ConceptFolder], int]:
    """As train, and how many concepts were trained here: not those that another process finished meanwhile.

    InputError before any model is loaded for anything that cannot be trained; DivergedError if a loss leaves
    the numbers.
    """
    check(cfg)
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
    return RunFolder(Path(cfg.runs), cfg.backbone.name, method, config_hash(hashed(cfg)), int(cfg.seed))


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
    there = folder.metadata.is_file() and has_content(folder.config) and logged and all(map(is_whole, learned))
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
    if not folder.metadata.is_file():
        return
    before, now = read_json(folder.metadata, "remove that folder to train again"), _taught(concept)
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
    if not (_adapts(cfg) and cfg.optim.lr == 0):  # then the adapter alone is trained
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
