"""A variant of a checkpoint's weights, such as fp16, as a folder in which it has the plain names."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from dti_repro.artifacts.files import read_json
from dti_repro.backbones.checkpoint import COPY_AGAIN, WEIGHTS, parts
from dti_repro.backbones.local_cache import cache_folder, create_once
from dti_repro.errors import InputError

KIND = "variants"


def variant_view(folder: Path, variant: str) -> Path:
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

    return create_once(cache_folder(KIND, digest), link)


def parts_without(folder: Path, variant: str) -> list[str]:
    """Return the parts of a checkpoint that have no weights of this variant, [] if none has."""
    named = [part for part in parts(folder) if part in WEIGHTS]
    found = [part for part in named if any(_has(file, variant) for file in (folder / part).glob("*"))]
    return [part for part in named if part not in found] if found else []


def _has(file: Path, variant: str) -> bool:
    """Return whether this is a file of the variant's weights, or their index."""
    return ".safetensors" in file.name and any(f".{variant}{end}" in file.name for end in (".", "-"))
