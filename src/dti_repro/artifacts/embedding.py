"""Learned vectors as a file: safetensors, one key, the form that diffusers' load_textual_inversion takes.

The key is the placeholder with its brackets, the value (vectors, dim) float32; the header says where it comes
from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dti_repro.artifacts.files import atomic_write
from dti_repro.artifacts.run_dir import embedding_files, encoder_file
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dti_repro.backbones.base import BackboneSpec

FORMAT = "dti-repro-1"
MAX_BYTES = 16 << 20  # 1,000 vectors of 4,096 numbers: anything larger is not an embedding


def save_embedding(path: Path, placeholder: str, vectors: Tensor, header: Mapping[str, str]) -> None:
    """Write (vectors, dim) under its placeholder.

    `header` takes method, config_hash, base_model, concept, placeholder, initializer and, for a snapshot,
    step. Equal content is equal bytes.
    """
    write_tensors(path, {placeholder: vectors}, {"format": FORMAT, "placeholder": placeholder, **header})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """As float32 safetensors. Equal content is equal bytes."""
    import torch
    from safetensors.torch import save

    content = {key: rows.detach().to("cpu", torch.float32).contiguous() for key, rows in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(_sorted_header(save(content, metadata=dict(header))))


def save_embeddings(path: Path, placeholder: str, vectors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Text encoder -> (vectors, dim): one file, or one per encoder where there are several, each naming all."""
    several = {"encoders": " ".join(vectors)} if len(vectors) > 1 else {}
    for encoder, rows in vectors.items():
        save_embedding(encoder_file(path, encoder, len(vectors)), placeholder, rows, {**header, **several})


def _sorted_header(data: bytes) -> bytes:
    """The library writes the metadata in the arbitrary order of a hash map; sort it, and equal content is
    equal bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of eight
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def load_embeddings(path: Path) -> dict[str, Tensor]:
    """Text encoder -> (vectors, dim) float32, {"": vectors} where there is only one. InputError as load_embedding."""
    files = embedding_files(path)
    if not files:
        raise InputError(f"embedding {path} does not exist, or not for all of its text encoders")
    learned = {encoder: load_embedding(file)[1] for encoder, file in files.items()}
    if len({len(rows) for rows in learned.values()}) > 1:
        raise InputError(f"embedding {path} has another number of vectors for each text encoder")
    return learned


def for_encoders(vectors: Mapping[str, Tensor], spec: BackboneSpec, path: Path) -> dict[str, Tensor]:
    """What `load_embeddings` gave, by the backbone's own text encoders. InputError, naming the file, if it does
    not fit them."""
    own = {next(iter(spec.encoders)): vectors[""]} if "" in vectors and len(spec.encoders) == 1 else dict(vectors)
    if own.keys() != spec.encoders.keys():
        raise InputError(
            f"embedding {path} is for {len(own)} text encoder(s), {spec.name} has {len(spec.encoders)}: "
            "choose the backbone it was learned on"
        )
    for name, rows in own.items():
        if rows.shape[1] != spec.encoders[name].dim:
            raise InputError(
                f"embedding {path} is {rows.shape[1]} wide, {spec.name} takes {spec.encoders[name].dim}: "
                "choose the backbone it was learned on"
            )
    return own


def load_embedding(path: Path, dim: int | None = None) -> tuple[str, Tensor, dict[str, str]]:
    """(placeholder, vectors (V, dim) float32 on the CPU, header). InputError that names the file for anything
    else: a pickle, several keys, a wrong shape or width, numbers that are not finite."""
    tensors, header = read_tensors(path)
    if len(tensors) != 1:
        raise InputError(f"embedding {path} has {len(tensors)} keys ({', '.join(sorted(tensors)[:4])}), one expected")
    ((key, stored),) = tensors.items()
    vectors = check_vectors(path, stored)
    if dim is not None and vectors.shape[1] != dim:
        raise InputError(f"embedding {path} is {vectors.shape[1]} wide, the text encoder takes {dim}")
    return key, vectors, header


def check_file(path: Path) -> None:
    """InputError for a file that is not there, is empty or is too large. Imports nothing heavy."""
    if not path.is_file():
        raise InputError(f"embedding {path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"embedding {path} is empty (0 bytes): copy it again, or remove it and train again")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            f"embedding {path} is larger than {MAX_BYTES >> 20} MiB: this is no embedding of a few vectors"
        )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Key -> tensor as stored, and the header. InputError for what is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"embedding {path} is not a safetensors file (pickles are never loaded): {error}") from error


def check_vectors(path: Path, vectors: Tensor) -> Tensor:
    """As (vectors, dim) float32; a single vector may come without the first dimension. InputError that names the
    file for another shape, for fewer than 16 bits a number and for numbers that are not finite in float32."""
    import torch

    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or 0 in vectors.shape or not vectors.is_floating_point():
        raise InputError(f"embedding {path} has shape {tuple(vectors.shape)} {vectors.dtype}, (vectors, dim) expected")
    if vectors.dtype.itemsize < 2:
        raise InputError(f"embedding {path} is {vectors.dtype}: float32, float16 or bfloat16 is needed")
    vectors = vectors.to(torch.float32)
    if not bool(torch.isfinite(vectors).all()):
        raise InputError(f"embedding {path} holds numbers that are not finite in float32")
    return vectors
