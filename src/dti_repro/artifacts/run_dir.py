"""The folders of results: `<runs>/<backbone>/<method>/<hash>/seed_<n>/<concept>/`, the only interface between stages.

The hash covers all settings that can change a vector, and nothing else. So a run that is repeated, requeued, resumed or
trained in a bigger pack finds its folder. No torch here: a finished run must be reported
within a second.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_yaml, sha256
from dti_repro.errors import InputError

HASH_LENGTH = 10
NAMES = 5  # of the folders of a concept: backbone, method, hash, seed and concept
NAME_LENGTH = 100  # file systems take 255 bytes, and names are joined and prefixed


def _path_in_folder(name: str) -> property:
    """Return a property of a folder: the path of this file in it."""
    return property(lambda folder: folder.path / name)


@dataclass(frozen=True)
class ConceptFolder:
    """Everything about one concept of one run. Nothing is created by asking for a path."""

    path: Path

    embedding = _path_in_folder("embedding.safetensors")
    """The learned vectors, one file for each text encoder (see `embedding_files`). They are written last: where they
    are, the training is done."""
    metadata = _path_in_folder("concept.json")
    """Placeholder, initializer, and the hashes of the photos that it was trained with."""
    checkpoint = _path_in_folder("last.ckpt")
    log = _path_in_folder("log.csv")
    provenance = _path_in_folder("provenance.json")
    lock = _path_in_folder("lock")
    previews = _path_in_folder("previews")
    images = _path_in_folder("images")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed_folder(self) -> Path:
        return self.path.parent

    @property
    def config(self) -> Path:
        """Return the path of config.yaml: the settings from which the hash was made."""
        return self.path.parents[1] / "config.yaml"

    def settings(self, key: str) -> dict[str, Any]:
        """Return this node of config.yaml; {} where there is none, as a run may come from elsewhere."""
        node = read_yaml(self.config).get(key) if self.config.is_file() else None
        return node if isinstance(node, dict) else {}

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step_{step:06d}.safetensors"

    def is_done(self) -> bool:
        return bool(embedding_files(self.embedding))

    def logged(self) -> int:
        """Return the number of steps of which log.csv has a whole row."""
        return max(0, self.log.read_bytes().count(b"\n") - 1) if self.log.is_file() else 0


@dataclass(frozen=True)
class RunFolder:
    """One configuration and seed; its concepts lie below."""

    root: Path
    backbone: str
    method: str
    config_hash: str
    seed: int

    @property
    def path(self) -> Path:
        return self.root / self.backbone / self.method / self.config_hash / f"seed_{self.seed}"

    @property
    def config(self) -> Path:
        return self.path.parent / "config.yaml"

    def concept(self, name: str) -> ConceptFolder:
        return ConceptFolder(self.path / name)

    def header(self, concept: str, initializer: str) -> dict[str, str]:
        """Return the header of a concept's embedding files."""
        return {
            "method": self.method,
            "config_hash": self.config_hash,
            "base_model": self.backbone,
            "concept": concept,
            "initializer": initializer,
        }


def finished_concepts(path: str | Path) -> list[ConceptFolder]:
    """Return the finished concepts of a hash folder, a seed folder, a concept folder or an embedding, sorted by path.
    Their paths are absolute where the folder was given from inside the run, so that each has the names of all folders
    above it.

    InputError if there is no such folder, or nothing finished in it.
    """
    folder = Path(str(path))
    if folder.is_file():  # an embedding, as `train` prints it
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"run folder {folder} does not exist")
    if not folder.name or ".." in folder.parts:
        folder = Path(os.path.abspath(folder))
    below = folder.glob("*" if folder.name.startswith("seed_") else "seed_*/*")
    found = [concept for concept in map(ConceptFolder, (folder, *sorted(below))) if concept.is_done()]
    if not found:
        raise InputError(f"run folder {folder} holds no finished concept (hash, seed or concept folder expected)")
    if len(found[0].path.parts) < NAMES:
        found = [ConceptFolder(Path(os.path.abspath(concept.path))) for concept in found]
    return found


def config_hash(hashed: Mapping[str, Any]) -> str:
    """Return ten hex digits for plain nested content; 5, 5.0 and the order of keys make no difference."""
    text = json.dumps(_canonical(hashed), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


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


def check_name(name: str, what: str) -> str:
    """Return the name. InputError, which says `what` it is, unless it is safe as a file name everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"{what} '{name}' cannot be a file name: use letters, digits, '-' and '_' only")
    if len(name) > NAME_LENGTH:
        raise InputError(f"{what} '{name[:20]}...' is {len(name)} characters long: at most {NAME_LENGTH} are taken")
    return name


def has_content(path: Path) -> bool:
    """Return whether the file is there and not empty."""
    return path.is_file() and path.stat().st_size > 0


def encoder_file(path: Path, encoder: str, encoders: int) -> Path:
    """Return where the vectors of one of `encoders` text encoders lie: one key a file, as diffusers' loader wants."""
    return path if encoders == 1 else path.with_suffix(f".{encoder}{path.suffix}")


def embedding_files(path: Path) -> dict[str, Path]:
    """Return text encoder -> file of the embedding at `path`; {"": path} where there is one text encoder.

    Empty unless all files are there: the header of each names the encoders.
    """
    if path.is_file():
        return {"": path}
    first = min(filter(Path.is_file, path.parent.glob(f"{path.stem}.*{path.suffix}")), default=None)
    names = read_header(first).get("encoders", "").split() if first else []
    files = {name: encoder_file(path, name, len(names)) for name in names if name.isidentifier()}
    return files if len(files) > 1 and all(file.is_file() for file in files.values()) else {}


def read_header(path: Path) -> dict[str, str]:
    """Return the metadata of the embedding at `path`, of its first file; empty if it has none or is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(next(iter(embedding_files(path).values()), path), framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def check_trained_on(backbone: str, folder: ConceptFolder, what: str) -> None:
    """Raise InputError, which begins with `what`, unless the word was trained on this backbone, as its embedding says,
    else its place in `runs`."""
    above = folder.path.resolve().parents
    trained_on = read_header(folder.embedding).get("base_model") or (above[3].name if len(above) > 3 else "unknown")
    if trained_on != backbone:
        raise InputError(f"{what} was trained on {trained_on}: add backbone={trained_on}")


def is_whole(path: Path) -> bool:
    """Return whether all files of the embedding at `path` are there and can be read, and hold finite numbers."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        files = [load_file(file) for file in embedding_files(path).values()]
    except (SafetensorError, OSError, KeyError, ValueError):
        return False
    return bool(files) and all(file and all(np.isfinite(rows).all() for rows in file.values()) for file in files)


def embedding_sha256(path: Path) -> str:
    """Return the hex digest of the embedding at `path`: of its only file, or of its files' digests in order."""
    digests = [sha256(file) for file in embedding_files(path).values()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def final_norm(folders: Sequence[ConceptFolder]) -> float:
    """Return the mean over concepts of the mean norm of their learned vectors, in the text encoder's own units: those
    of the embedding or, where a method's state is saved, those that the log's last row is about."""
    import numpy as np
    from safetensors.numpy import load_file

    means = []
    for folder in folders:
        if "vectors" in read_header(folder.embedding):
            means.append(log_column(folder.log, "norm")[-1])
            continue
        rows = [rows for file in embedding_files(folder.embedding).values() for rows in load_file(file).values()]
        means.append(np.concatenate([np.linalg.norm(r.astype(np.float64), axis=-1) for r in rows]).mean())
    return float(statistics.fmean(means))


def gradient_norm(folders: Sequence[ConceptFolder]) -> float | None:
    """Return the mean over concepts of the median over steps of the gradient's norm; None where a log is missing.

    The gradient is with respect to what the optimizer steps (for DTI the unit direction), the prior included.
    """
    logs = [folder.log for folder in folders]
    if not all(log.is_file() for log in logs):
        return None
    return statistics.fmean(statistics.median(log_column(log, "grad_norm")) for log in logs)


def log_column(log: Path, column: str) -> list[float]:
    """Return the numbers of a column of log.csv, one a step. InputError if there are none."""
    try:
        with log.open(newline="") as file:
            numbers = [float(row[column]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError):
        numbers = []
    if not numbers:
        raise InputError(f"{log} has no usable column {column}; train this concept again")
    return numbers
