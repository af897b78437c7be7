"""The norm that AdamW gives a vector that learns nothing: random gradients, everything else as in the run.

AdamW divides by the gradient's size, so each step is about lr long whatever the loss says; a learned norm
means something only beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass

_VECTORS = 32  # independent vectors that are averaged; AdamW works on each number by itself


@dataclass(frozen=True)
class AdamWRun:
    """What decides the norm: width, steps, the norm at the start and AdamW's own settings."""

    dim: int
    steps: int
    initial_norm: float
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


def norm_on_noise(run: AdamWRun, seed: int = 0) -> float:
    """Mean final norm over vectors that start in random directions and get standard normal gradients."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    start = torch.nn.functional.normalize(torch.randn(_VECTORS, run.dim, generator=generator), dim=-1)
    vectors = torch.nn.Parameter(start * run.initial_norm)
    optimizer = torch.optim.AdamW([vectors], lr=run.lr, betas=run.betas, eps=run.eps, weight_decay=run.weight_decay)
    for _ in range(run.steps):
        vectors.grad = torch.randn(_VECTORS, run.dim, generator=generator)
        optimizer.step()
    return float(vectors.detach().norm(dim=-1).mean())
