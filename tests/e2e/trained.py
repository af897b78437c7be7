"""A run folder as training leaves it, with vectors of our choice, for tests of what comes after training."""

from __future__ import annotations

from pathlib import Path

import torch

from dti_repro.artifacts.embedding import save_embeddings
from dti_repro.artifacts.files import write_json
from dti_repro.artifacts.run_dir import RunFolder
from tests.tiny import DIM

CLASS = "cat"  # a word of the toybox's tokenizer


def vectors(seed: int, count: int = 1) -> torch.Tensor:
    """(count, DIM) of about a vocabulary row's norm."""
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) * 0.05


def trained_run(root: Path, concepts: dict[str, torch.Tensor], *, seed: int = 42) -> Path:
    """Write `<root>/stable_diffusion/ti/0123456789/seed_<n>/<concept>/`; returns the seed's folder."""
    run = RunFolder(root, "stable_diffusion", "ti", "0123456789", seed)
    for name, rows in concepts.items():
        folder = run.concept(name)
        header = {"method": "ti", "concept": name, "initializer": CLASS}
        save_embeddings(folder.embedding, f"<{name}>", {"": rows}, header)
        write_json(folder.metadata, {"placeholder": f"<{name}>", "initializer": CLASS, "images": {}})
    return run.path
