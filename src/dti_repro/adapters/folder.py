"""Where an adapter lies next to its embedding, and whether the two belong together.

`<embedding>.adapter/` holds adapter_config.json and adapter_model.safetensors, peft's format, and for a LoRA
pytorch_lora_weights.safetensors, diffusers'. The embedding's header holds the digest of peft's two, and is written
after them. Imports no torch.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dti_repro.artifacts.files import atomic_write, sha256
from dti_repro.artifacts.run_dir import read_header
from dti_repro.errors import InputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"
HEADER = "adapter"
"""The key of the digest in an embedding's header."""


def adapter_folder(embedding: Path) -> Path:
    """Return the folder of an embedding's (or snapshot's) adapter, whether there is one or not."""
    return embedding.with_suffix(".adapter")


def adapter_files(folder: Path) -> list[Path]:
    """Return the adapter's files that exist, in peft's format and in diffusers'."""
    return [folder / name for name in (CONFIG, WEIGHTS, DIFFUSERS_LORA) if (folder / name).is_file()]


def adapter_sha256(folder: Path) -> str:
    """Return the hex digest of the digests of the configuration and the weights."""
    return hashlib.sha256("".join(sha256(folder / name) for name in (CONFIG, WEIGHTS)).encode()).hexdigest()


def adapter_of(embedding: Path) -> Path | None:
    """Return the folder of the adapter that the embedding was learned with, None if there was none. InputError if it is
    missing or changed."""
    digest = read_header(embedding).get(HEADER)
    if digest is None:
        return None
    folder = adapter_folder(embedding)
    if not all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
        raise InputError(f"adapter {folder} is missing, and {embedding} was learned with it: put it back")
    if adapter_sha256(folder) != digest:
        raise InputError(f"adapter {folder} is not the one that {embedding} was learned with: put that one back")
    return folder


def has_own_adapter(embedding: Path) -> bool:
    """Return whether the embedding was learned with an adapter, which is there, unchanged."""
    try:
        return adapter_of(embedding) is not None
    except InputError:
        return False


def copy_adapter(source: Path, target: Path) -> dict[str, str]:
    """Copy the adapter of one embedding, if it has one, to another's. Return what the other's header says of it."""
    folder = adapter_of(source)
    if folder is None:
        return {}
    for file in adapter_files(folder):
        with atomic_write(adapter_folder(target) / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return {HEADER: adapter_sha256(folder)}
