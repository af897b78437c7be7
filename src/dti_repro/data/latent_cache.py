"""Photos in the autoencoder's latents: encoded once in a process and, with a folder on the machine's own disk, once on
a machine, whatever number of its jobs want them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dti_repro.artifacts.files import atomic_write, writing
from dti_repro.backbones.base import Backbone, LatentDistribution
from dti_repro.errors import InputError

AT_ONCE = 8  # photos in one pass of the encoder
HASH = "sha256"  # the header's key


@dataclass(frozen=True)
class LatentCache:
    """A file for each set of photos and each way of encoding them. `encoder`: all that decides the latents' bytes
    besides the photos (weights, settings, threads, device). Without a folder nothing is kept.

    A file is whole or absent, whoever writes it at the same time, and all who write it write the same bytes. It holds a
    hash of its tensors: what is damaged is encoded again.
    """

    folder: Path | None
    encoder: Mapping[str, Any]

    def encode(self, backbone: Backbone, pixels: Tensor) -> LatentDistribution:
        """Mean and standard deviation of photos (n, 3, height, width) in [-1, 1]. InputError if the folder cannot be
        written."""
        if self.folder is None:
            return _encode(backbone, pixels)
        digest = hashlib.sha256(json.dumps(self.encoder, sort_keys=True, default=str).encode())
        digest.update(f"{torch.__version__} {tuple(pixels.shape)}".encode())
        digest.update(_bytes(pixels))
        file = self.folder / f"{digest.hexdigest()}.safetensors"
        try:
            mean, std = _read(file)
            return LatentDistribution(mean.to(backbone.device), std.to(backbone.device))
        except (OSError, SafetensorError, ValueError):  # not there, or damaged
            latents = _encode(backbone, pixels)
            mean, std = (part.cpu().contiguous() for part in (latents.mean, latents.std))
            with atomic_write(file) as temporary:
                save_file({"mean": mean, "std": std}, temporary, {HASH: _hash(mean, std)})
            return latents


def own_folder(folder: Path) -> None:
    """Make it, for this user alone: photos can be told from latents, and whoever writes them decides what is learned.
    InputError if it cannot be made, or is there and others have access to it."""
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InputError(
            f"trainer.latents {folder}: other users have access to it; `chmod 700` it if it is for latents only, or "
            "name a folder that does not exist yet"
        )


def _read(file: Path) -> tuple[Tensor, Tensor]:
    """ValueError for other tensors than those that were written."""
    with safe_open(file, framework="pt") as content:
        if set(content.keys()) != {"mean", "std"}:
            raise ValueError("other keys")
        mean, std = content.get_tensor("mean"), content.get_tensor("std")
        if (content.metadata() or {}).get(HASH) != _hash(mean, std):
            raise ValueError("other content")
    return mean, std


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def _encode(backbone: Backbone, pixels: Tensor) -> LatentDistribution:
    parts = [backbone.encode_images(part) for part in pixels.split(AT_ONCE)]
    return LatentDistribution(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))
