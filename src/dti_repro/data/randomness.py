"""Random numbers that are a function of what they are for, so that packing, resuming and workers change
nothing."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by a key such as (seed, concept name, step). Draw on the CPU, then move."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
