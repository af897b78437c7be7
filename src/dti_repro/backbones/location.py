"""Where the checkpoint of a backbone is: the packaged one, a folder, a variant in it, a single file, or the Hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_json, user_path
from dti_repro.backbones.checkpoint import COPY_AGAIN, PACKAGED, WEIGHTS, check_kind, check_whole, parts
from dti_repro.backbones.hub import cached, download, is_id, patterns
from dti_repro.backbones.local_cache import cache_folder, create_once
from dti_repro.backbones.single_file import converted, is_single_file, kind_of
from dti_repro.errors import InputError

KEYS = ("path", "revision", "variant", "config")
"""The keys of a backbone that say where its checkpoint is; a yaml may lack some."""


def located(backbone: Mapping[str, Any]) -> Path:
    """Return the folder of the checkpoint that a configuration's `backbone` node names, as `locate`. InputError for a
    checkpoint that another of this project's backbones is for: for a single file before it is converted."""
    module, _, name = backbone["_target_"].rpartition(".")
    ours = module.startswith("dti_repro.")
    if ours and is_single_file(backbone["path"]) and (file := user_path(backbone["path"])).is_file():
        check_kind(file, name, kind=kind_of(file))
    folder = locate(**{key: backbone[key] for key in KEYS if key in backbone})
    if ours:
        check_kind(folder, name)
    return folder


def on_this_machine(backbone: Mapping[str, Any]) -> Path | None:
    """Return the folder of a configuration's `backbone` node as `find`."""
    return find(**{key: backbone[key] for key in KEYS if key in backbone})


def locate(path: str | None, revision: str = "main", variant: str | None = None, config: str | None = None) -> Path:
    """Return a checkpoint's folder in diffusers' format. InputError if it is not whole.

    path: a folder, a single file, which is converted once, or an id on the Hugging Face Hub, from where it is
    downloaded if it is not in the cache; None is the packaged toybox. revision: of an id. variant: of the weights, such
    as fp16. config: for a single file, as in `converted`.
    """
    folder = find(path, revision, variant, config)
    if folder is None and is_single_file(path):
        folder = converted(path, config, make=True)
    elif folder is None:
        folder = download(path, revision, patterns(variant))
        if variant is not None and (plain := parts_without(folder, variant)):
            folder = download(path, revision, patterns(variant, plain=plain))
        folder = _whole(folder, variant)
    check_whole(folder)
    return folder


def find(
    path: str | None, revision: str = "main", variant: str | None = None, config: str | None = None
) -> Path | None:
    """Return the checkpoint's folder as `locate`, but None for an id on the Hub that is not whole in the cache, and for
    a single file that is not converted."""
    if is_single_file(path):
        if variant is not None:
            raise InputError(f"backbone.variant={variant}: a single file has one kind of weights, leave this key out")
        return converted(path, config, make=False)
    if path is not None and is_id(path) and not Path(path).is_dir():
        folder = cached(path, revision, patterns(variant))
        try:
            return None if folder is None else _whole(folder, variant)
        except InputError:  # an interrupted download leaves a part of it
            return None
    return _whole(PACKAGED if path is None else user_path(path), variant)


def _whole(folder: Path, variant: str | None) -> Path:
    if variant is not None and (folder / "model_index.json").is_file():
        folder = _variant_view(folder, variant)
    check_whole(folder)
    return folder


def _variant_view(folder: Path, variant: str) -> Path:
    """Return a folder of links to a checkpoint's files, in which the variant's weights have the plain names. A part
    without this variant keeps its plain weights, as in diffusers. InputError if no part has it."""
    folder = folder.absolute()
    named = {part: sorted((folder / part).iterdir()) for part in parts(folder) if (folder / part).is_dir()}
    chosen = {part: [file for file in files if _has(file, variant)] for part, files in named.items() if part in WEIGHTS}
    if not any(chosen.values()):
        raise InputError(f"backbone.variant={variant}: {folder} has no such weights, unet/*.{variant}.safetensors")
    listing = [f"{file} {file.stat().st_size}" for files in named.values() for file in files]
    digest = hashlib.sha256("\n".join([str(folder), variant, *listing]).encode()).hexdigest()

    def link(view: Path) -> None:
        os.symlink(folder / "model_index.json", view / "model_index.json")
        for part, files in named.items():
            (view / part).mkdir()
            for file in files:
                plain = file.name.replace(f".{variant}", "")
                if not chosen.get(part) or ".safetensors" not in file.name:
                    os.symlink(file, view / part / file.name)
                elif file in chosen[part] and file.suffix == ".json":
                    index = read_json(file, COPY_AGAIN)
                    names = {k: str(v).replace(f".{variant}", "") for k, v in index.get("weight_map", {}).items()}
                    (view / part / plain).write_text(json.dumps({**index, "weight_map": names}))
                elif file in chosen[part]:
                    os.symlink(file, view / part / plain)

    return create_once(cache_folder("variants", digest), link)


def parts_without(folder: Path, variant: str) -> list[str]:
    """Return the parts of a checkpoint that have no weights of this variant, [] if none has."""
    named = [part for part in parts(folder) if part in WEIGHTS]
    found = [part for part in named if any(_has(file, variant) for file in (folder / part).glob("*"))]
    return [part for part in named if part not in found] if found else []


def _has(file: Path, variant: str) -> bool:
    """Return whether this is a file of the variant's weights, or their index."""
    return ".safetensors" in file.name and any(f".{variant}{end}" in file.name for end in (".", "-"))


def commit(folder: Path) -> str | None:
    """Return the commit of a snapshot from the Hub, or of the one that a variant's folder links to; None for any other
    folder."""
    index = folder / "model_index.json"
    for place in (folder, Path(os.readlink(index)).parent if index.is_symlink() else folder):
        if place.parent.name == "snapshots":
            return place.name
    return None
