"""Where results lie: `<runs>/<backbone>/<method>/<hash>/seed_<n>/<concept>/`, the only interface between
stages.

The hash covers whatever can change a vector and nothing else, so that a re-run, a requeue, a bigger pack and
a resume all find their place. No torch here: that a run is done must be said within a second.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import sha256
from dti_repro.errors import InputError

HASH_LENGTH = 10
NAME_LENGTH = 100  # file systems take 255 bytes, and names are joined and prefixed


@dataclass(frozen=True)
class ConceptFolder:
    """Everything about one concept of one run. Nothing is created by asking for a path."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed_folder(self) -> Path:
        return self.path.parent

    @property
    def config(self) -> Path:
        """The yaml of what was hashed; it lies in the hash folder."""
        return self.path.parent.parent / "config.yaml"

    @property
    def embedding(self) -> Path:
        """The learned vectors; of several text encoders a file each (see `embedding_files`). Their presence means
        that the training is done."""
        return self.path / "embedding.safetensors"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step_{step:06d}.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def metadata(self) -> Path:
        """concept.json: initializer, placeholder and the hashes of the images that it is trained on."""
        return self.path / "concept.json"

    @property
    def provenance(self) -> Path:
        """provenance.json: times, hosts, versions; kept apart so that equal results are equal bytes."""
        return self.path / "provenance.json"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def scores(self) -> Path:
        return self.path / "scores"

    def is_done(self) -> bool:
        return bool(embedding_files(self.embedding))

    def logged(self) -> int:
        """Steps of which log.csv has a whole row."""
        return max(0, self.log.read_bytes().count(b"\n") - 1) if self.log.is_file() else 0

    def has_snapshot(self, step: int) -> bool:
        return bool(embedding_files(self.snapshot(step)))


@dataclass(frozen=True)
class RunFolder:
    """One configuration and seed; its concepts lie below."""

    root: Path
    backbone: str
    method: str
    config_hash: str
    seed: int

    @property
    def hash_folder(self) -> Path:
        return self.root / self.backbone / self.method / self.config_hash

    @property
    def path(self) -> Path:
        return self.hash_folder / f"seed_{self.seed}"

    @property
    def config(self) -> Path:
        return self.hash_folder / "config.yaml"

    def concept(self, name: str) -> ConceptFolder:
        return ConceptFolder(self.path / name)

    def concepts(self) -> list[ConceptFolder]:
        """The finished ones, by name."""
        return _finished(self.path)


def parse(path: str | Path) -> list[ConceptFolder]:
    """The finished concepts of what a user may call a run: a hash folder, a seed folder or a concept folder.

    Sorted by path. InputError if there is no such folder, or nothing finished in it.
    """
    folder = Path(str(path))
    if not folder.is_dir():
        raise InputError(f"run folder {folder} does not exist")
    itself = ConceptFolder(folder)
    if itself.is_done():
        return [itself]
    if folder.name.startswith("seed_"):
        found = _finished(folder)
    else:
        found = [concept for seed in sorted(folder.glob("seed_*")) for concept in _finished(seed)]
    if not found:
        raise InputError(f"run folder {folder} holds no finished concept (hash, seed or concept folder expected)")
    return found


def config_hash(hashed: Mapping[str, Any]) -> str:
    """Ten hex digits of plain nested content; 5, 5.0 and the order of keys make no difference."""
    text = json.dumps(_canonical(hashed), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def encoder_file(path: Path, encoder: str, encoders: int) -> Path:
    """Where the vectors of one of several text encoders lie: one key a file, as diffusers' loader wants."""
    return path if encoders == 1 else path.with_suffix(f".{encoder}{path.suffix}")


def embedding_files(path: Path) -> dict[str, Path]:
    """Text encoder -> file of the embedding at `path`, which is its only file ({"": path}) or stands for one
    per encoder. Empty unless all are there: each file's header names the encoders."""
    if path.is_file():
        return {"": path}
    first = next(iter(sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))), None)
    if first is None:
        return {}
    names = [name for name in read_header(first).get("encoders", "").split() if name.isidentifier()]
    files = {name: encoder_file(path, name, len(names)) for name in names}
    return files if len(files) > 1 and all(file.is_file() for file in files.values()) else {}


def has_content(path: Path) -> bool:
    """Whether the file is there and not empty."""
    return path.is_file() and path.stat().st_size > 0


def is_whole(path: Path) -> bool:
    """Whether all files of the embedding at `path` are there and can be read, and hold finite numbers."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = [load_file(file) for file in embedding_files(path).values()]
    except (SafetensorError, OSError, KeyError, ValueError):
        return False
    return bool(tensors) and all(own and all(np.isfinite(v).all() for v in own.values()) for own in tensors)


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none or is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def embedding_sha256(path: Path) -> str:
    """Hex digest of the embedding at `path`: of its only file, or of its files' digests in the encoders' order."""
    digests = [sha256(file) for file in embedding_files(path).values()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def check_name(name: str, what: str) -> str:
    """A name that is safe as a file name everywhere, or InputError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"{what} '{name}' cannot be a file name: use letters, digits, '-' and '_' only")
    if len(name) > NAME_LENGTH:
        raise InputError(f"{what} '{name[:20]}...' is {len(name)} characters long: at most {NAME_LENGTH} are taken")
    return name


def _finished(seed_folder: Path) -> list[ConceptFolder]:
    children = sorted(p for p in seed_folder.glob("*") if p.is_dir()) if seed_folder.is_dir() else []
    return [folder for folder in map(ConceptFolder, children) if folder.is_done()]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
