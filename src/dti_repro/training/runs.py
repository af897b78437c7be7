"""The runs of a configuration: where they lie and what of them is missing.

No torch is imported here: what is wrong with the input, or already done, is said within a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import has_own_adapter
from dti_repro.artifacts.files import read_json, sha256, user_path, write_json
from dti_repro.artifacts.provenance import SOURCE_DIGEST, read_provenance
from dti_repro.artifacts.run_dir import (
    ConceptFolder,
    RunFolder,
    check_name,
    config_hash,
    embedding_files,
    embedding_sha256,
    finished_concepts,
    has_content,
    is_whole,
    log_column,
)
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.location import located
from dti_repro.config.values import Init
from dti_repro.data.captions import CAPTIONS
from dti_repro.data.concept import Concept
from dti_repro.errors import InputError

HASHED_TRAINER = ("steps", "batch", "accumulate", "precision")
ADDED_LATER = {
    "masks_in_loss": False,
    "crop": "centre",
    "sizes": "uncropped",
    "as_published": False,
    "schedule": "constant",
    "warmup": 0,
}
"""Keys that were added after the first runs -> their defaults. At its default a key is left out of the hash, so that
old runs keep theirs."""
NAMED_STARTS = get_args(get_args(Init)[0])
HASHED_STOP = ("stop", "stop_window", "stop_eps", "stop_batch")
EVALUATED = "eval_loss"
"""The column of log.csv with the loss on a fixed batch after each step, where `trainer.stop` is chosen."""
FOR_PROMPTS = ("class_word", "live")
"""Keys of concept.json that most trainings do not read, and that can be corrected after them."""
# Of a backbone: its weights are hashed themselves, and how it spares memory or time changes rounding only.
NOT_HASHED = ("path", "revision", "variant", "config", "generation", "checkpointing", "compile")


def run_folder(cfg: DictConfig) -> RunFolder:
    """Return the folder of this configuration's results, whether it exists or not."""
    method = check_name(str(cfg.method.name), "method.name")
    backbone = check_name(cfg.backbone.name, "backbone.name")
    return RunFolder(Path(cfg.runs), backbone, method, config_hash(hashed(cfg)), int(cfg.seed))


def source_config(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the training whose vectors a derived method transforms (`method.source`)."""
    source = OmegaConf.merge(cfg)
    OmegaConf.set_struct(source, False)
    source.method = cfg.method.source
    return source


def hashed(cfg: DictConfig) -> dict[str, Any]:
    """Return all keys that can change a vector. Left out are the concept and the seed, which have folders of their own
    below the hash, and packing, threads and device (which change rounding only), loggers, launchers and paths."""
    backbone = {key: value for key, value in _changed(cfg.backbone).items() if key not in NOT_HASHED}
    trainer = [*HASHED_TRAINER, *(key for key in ADDED_LATER if key in _changed(cfg.trainer))]
    trainer += ["crops"] if cfg.trainer.crop == "random" else []
    trainer += HASHED_STOP if cfg.trainer.stop else []
    return {
        "method": _without_null(_plain(cfg.method)),
        "optim": _without_null(_changed(cfg.optim)),
        "backbone": {**backbone, "weights": fingerprint(located(cfg.backbone))},
        "templates": _plain(cfg.templates)["prompts"],
        "trainer": {key: cfg.trainer[key] for key in trainer},
        **({"adapter": _plain(cfg.adapter)} if _has_adapter(cfg) else {}),
    }


def _changed(node: DictConfig) -> dict[str, Any]:
    """Return a node without keys of ADDED_LATER that have their defaults."""
    plain = _plain(node)
    return {key: value for key, value in plain.items() if key not in ADDED_LATER or value != ADDED_LATER[key]}


def _has_adapter(cfg: DictConfig) -> bool:
    """Return whether an adapter is trained. The one without settings is `none`."""
    return len(cfg.adapter) > 1


def _without_null(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node without keys that are null at any depth: optional keys, of which new ones may come."""
    plain = {key: _without_null(value) if isinstance(value, Mapping) else value for key, value in node.items()}
    return {key: value for key, value in plain.items() if value is not None}


def start_of(cfg: DictConfig, concept: Concept) -> Path | None:
    """Return the embedding that the concept's vectors start from, where `method.init` is the path of an embedding, of a
    concept's folder or of a run that has the concept: in the run's folder of this seed if there are several. InputError
    if it is not there."""
    init = cfg.method.get("init")
    if init in (None, *NAMED_STARTS):
        return None
    path = user_path(init)
    if path.is_dir():
        folders = finished_concepts(path)
        if ConceptFolder(path).is_done():
            return folders[0].embedding
        found = [folder for folder in folders if folder.name == concept.name]
        if not found:
            known = ", ".join(sorted({folder.name for folder in folders}))
            raise InputError(
                f"method.init {init} has no concept '{concept.name}' (there are: {known}): name the folder of a concept"
            )
        chosen = [folder for folder in found if folder.seed_folder.name == f"seed_{cfg.seed}"] or found
        if len(chosen) > 1:
            raise InputError(f"method.init {init} has '{concept.name}' of several seeds: name one seed's folder")
        return chosen[0].embedding
    if not embedding_files(path):
        raise InputError(
            f"method.init '{init}' is none of {', '.join(NAMED_STARTS)}, and no embedding or run lies there"
        )
    return path


def check_pack(cfg: DictConfig, concepts: int) -> None:
    """Raise InputError if several of so many concepts would share an adapter."""
    if _has_adapter(cfg) and min(concepts, cfg.trainer.pack) > 1:
        raise InputError(
            f"an adapter's weights are one concept's own, and a pack would have {min(concepts, cfg.trainer.pack)}: "
            "add trainer.pack=1, which trains them one after the other, or adapter=none"
        )


def is_complete(cfg: DictConfig, folder: ConceptFolder, with_snapshots: bool = True) -> bool:
    """Return whether the concept is trained, with every snapshot that this configuration asks for, and all files of a
    run are there. provenance.json may be missing: what is lost are times, and what a derived word was made from."""
    whole = folder.metadata.is_file() and has_content(folder.config) and _is_saved(cfg, folder.embedding)
    whole = whole and (_is_of_its_source(cfg, folder) if "source" in cfg.method else _has_ended(cfg, folder))
    return whole and not (with_snapshots and missing_snapshots(cfg, folder))


def missing_snapshots(cfg: DictConfig, folder: ConceptFolder) -> list[int]:
    """Return the steps of the snapshots that are asked for and not there."""
    return [step for step in snapshot_steps(cfg, folder) if not _is_saved(cfg, folder.snapshot(step))]


def _is_saved(cfg: DictConfig, embedding: Path) -> bool:
    """Return whether an embedding or a snapshot is whole, with the adapter that is trained."""
    return is_whole(embedding) and (not _has_adapter(cfg) or has_own_adapter(embedding))


def _is_of_its_source(cfg: DictConfig, folder: ConceptFolder) -> bool:
    """Return whether the source's embedding is the one that this was derived from, as far as that is known."""
    origin = run_folder(source_config(cfg)).concept(folder.name).embedding
    derived_from = (read_provenance(folder) or {}).get(SOURCE_DIGEST)
    return derived_from is None or not embedding_files(origin) or embedding_sha256(origin) == derived_from


def snapshot_steps(cfg: DictConfig, folder: ConceptFolder) -> list[int]:
    """Return the steps of `trainer.snapshots` that a concept's training has reached, where it may stop early; else
    all."""
    if not cfg.trainer.stop:
        return list(cfg.trainer.snapshots)
    trained = run_folder(source_config(cfg)).concept(folder.name) if "source" in cfg.method else folder
    return [step for step in cfg.trainer.snapshots if step <= trained.logged()]


def _has_ended(cfg: DictConfig, folder: ConceptFolder) -> bool:
    """Return whether the log goes to the last step, or to the one at which the training stopped."""
    if folder.logged() == cfg.trainer.steps:
        return True
    may_stop = cfg.trainer.stop is not None and folder.log.is_file()
    return may_stop and has_settled(log_column(folder.log, EVALUATED), cfg.trainer)


def has_settled(losses: Sequence[float], trainer: DictConfig) -> bool:
    """Return whether a training with `trainer.stop` ends after the last of these losses, one a step.

    DVAR (Voronov et al. 2023) stops when the variance of the last `stop_window` losses is below `stop_eps` times that
    of all, as in its code.
    """
    if len(losses) < trainer.stop_window:
        return False
    total = np.var(losses)
    return bool(total > 0 and np.var(losses[-trainer.stop_window :]) / total < trainer.stop_eps)


def concept_metadata(concept: Concept, start: Path | None = None) -> dict[str, Any]:
    """Return the content of concept.json: all of a concept that can change its vectors, and what its prompts need.
    start: as of start_of."""
    return {
        **({} if start is None else {"start": embedding_sha256(start)}),
        "name": concept.name,
        "placeholder": concept.placeholder,
        "initializer": concept.initializer,
        "property": concept.property,
        "images": [{"file": path.name, "sha256": sha256(path)} for path in concept.images],
        **({"captions": list(concept.captions)} if concept.captions else {}),
        **({"masks": [mask and sha256(mask) for mask in concept.masks]} if concept.masks else {}),
        "class_word": concept.class_word,
        "live": concept.live,
    }


def _read_in_training(cfg: DictConfig) -> tuple[str, ...]:
    """Return what a training reads of FOR_PROMPTS. A method with regularization prompts reads both: its prompts differ
    for people and animals."""
    if cfg.method.get("prompts") is not None:
        return FOR_PROMPTS
    prompts = cfg.templates.prompts
    in_templates = prompts == CAPTIONS or any("{class}" in template for template in prompts)  # captions may have it
    in_objective = OmegaConf.select(cfg, "adapter.objective.prompt") == "class"
    return ("class_word",) if in_templates or in_objective else ()


def check_metadata(cfg: DictConfig, folder: ConceptFolder, concept: Concept) -> None:
    """Raise InputError if the folder was trained with other photos, another word or another start than the concept has
    now."""
    start = start_of(cfg, concept)
    if not folder.metadata.is_file():
        return
    before, now = read_json(folder.metadata, "remove that folder to train again"), concept_metadata(concept, start)
    may_change = {*FOR_PROMPTS} - {*_read_in_training(cfg)}
    changed = [key for key in now if key not in may_change and before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"concept '{concept.name}' is not the one that {folder.path} was trained with "
            f"(changed: {', '.join(changed)}): give it another name, or remove that folder"
        )


def update_metadata(folder: ConceptFolder, concept: Concept) -> None:
    """Write what only prompts need of a trained concept into its concept.json again, if it was corrected since."""
    before = read_json(folder.metadata, "remove that folder to train again")
    now = {**before, **{key: getattr(concept, key) for key in FOR_PROMPTS}}
    if now != before:
        write_json(folder.metadata, now)


def _plain(node: DictConfig) -> Mapping[str, Any]:
    return OmegaConf.to_container(node, resolve=True)
