"""The latents of photos: encoded once in a process or, with a folder on the machine's disk, once on a machine."""

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
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import LatentDistribution
from dti_repro.errors import InputError

BATCH = 8  # photos in one pass of the encoder
HASH = "sha256"  # the header's key


@dataclass(frozen=True)
class LatentCache:
    """One file for each set of photos and each way to encode them, or no file if there is no folder.

    encoder: everything besides the photos that decides the bytes of the latents (weights, settings, threads, device).
    A file is written atomically, and all processes that write it write the same bytes. It holds a hash of its tensors,
    so that a damaged file is found and written again.
    """

    folder: Path | None
    encoder: Mapping[str, Any]

    def encode(self, backbone: Backbone, pixels: Tensor) -> LatentDistribution:
        """Return the mean and standard deviation of photos (n, 3, height, width) in [-1, 1]. InputError if the folder
        cannot be written."""
        if self.folder is None:
            return _encode(backbone, pixels)
        digest = hashlib.sha256(json.dumps(self.encoder, sort_keys=True, default=str).encode())
        digest.update(f"{torch.__version__} {tuple(pixels.shape)}".encode())
        digest.update(pixels.numpy().tobytes())
        file = self.folder / f"{digest.hexdigest()}.safetensors"
        try:
            mean, std = _read(file)
            return LatentDistribution(mean.to(backbone.device), std.to(backbone.device))
        except (OSError, SafetensorError, ValueError):  # absent or damaged
            latents = _encode(backbone, pixels)
            mean, std = latents.mean.cpu().contiguous(), latents.std.cpu().contiguous()
            with atomic_write(file) as temporary:
                save_file({"mean": mean, "std": std}, temporary, {HASH: _hash(mean, std)})
            return latents


def make_private_folder(folder: Path) -> None:
    """Make the folder for this user alone: latents show the photos, and whoever writes them decides what is learned.
    InputError if it cannot be made, or exists and others have access to it."""
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InputError(
            f"trainer.latents {folder}: other users have access to it; `chmod 700` it if it is for latents only, or "
            "name a folder that does not exist yet"
        )


def _read(file: Path) -> tuple[Tensor, Tensor]:
    """Return mean and std. ValueError or SafetensorError if the file is damaged."""
    with safe_open(file, framework="pt") as content:
        mean, std = content.get_tensor("mean"), content.get_tensor("std")
        if (content.metadata() or {}).get(HASH) != _hash(mean, std):
            raise ValueError("other content")
    return mean, std


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _encode(backbone: Backbone, pixels: Tensor) -> LatentDistribution:
    parts = [backbone.encode_images(part) for part in pixels.split(BATCH)]
    return LatentDistribution(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))
