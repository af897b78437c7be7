"""The one loop that pretrains every toybox network: resumable, with a moving average of the weights."""

from __future__ import annotations

import csv
import os
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dti_repro.artifacts.files import atomic_write, write_file
from dti_repro.errors import InputError


class Stage(ABC):
    """One network to pretrain. A batch is a function of (seed, step), so a resumed run sees the same data."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimizer's groups: all that is trained, under the same weight decay."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "weight_decay": weight_decay}]

    @abstractmethod
    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the scalar loss of ``step``'s batch, and named figures for the log."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Return the quality on held-out data, by name."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write fp16 weights in the library's own format."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote, to train on with fresh optimizer state."""


def fit(
    stage: Stage,
    folder: Path,
    *,
    steps: int,
    lr: float,
    warmup: int = 200,
    decay: int = 1000,
    weight_decay: float = 0.01,
    ema: float = 0.999,
    clip: float = 1.0,
    bf16: bool = False,
    compiled: bool = False,
    checkpoint_every: int = 500,
    device: str = "cpu",
) -> dict[str, float]:
    """Train ``stage.model`` to ``steps``, from ``folder/last.pt`` where that exists.

    The learning rate warms up linearly, stays at ``lr``, and falls linearly over the last ``decay`` steps; until then
    ``steps`` can be raised.
    Under torchrun each process takes a batch of its own and the gradients are averaged; the first process writes.
    Leave the averaged weights in the model and return the last batch's figures.
    Raise InputError for a checkpoint that does not fit the stage and for a gradient that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = stage.model.to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(stage.parameter_groups(weight_decay), lr=lr, betas=(0.9, 0.98), fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
    checkpoint = folder / "last.pt"
    start = _resume(checkpoint, model, average, optimizer)
    if compiled:
        model.compile()  # after the average was copied from it; state_dict keeps its names
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    figures: dict[str, float] = {}
    log_file = folder / "log.csv" if rank == 0 else Path(os.devnull)
    if rank == 0:
        _cut_log(log_file, start)
    columns = (TextColumn(folder.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # A bar on a terminal; rich prints its final state only where there is none.
    bar = Progress(*columns, TextColumn("{task.fields[loss]}"), disable=rank > 0)
    with bar, log_file.open("a", newline="") as log:
        shown = bar.add_task(folder.name, total=steps, completed=start, loss="")
        writer = csv.writer(log)
        since, seen, total = time.monotonic(), start, 0.0
        for step in range(start, steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1, decay))
            optimizer.zero_grad(set_to_none=True)
            # On short sequences the CPU's fused attention is several times slower backward in bf16 than the plain one.
            with sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext():
                with torch.autocast(device, torch.bfloat16, enabled=bf16):
                    loss, figures = stage.loss(step * processes + rank)
                loss.backward()
            _average_gradients(trained, processes)
            norm = nn.utils.clip_grad_norm_(trained, clip)
            if not torch.isfinite(norm):
                raise InputError(f"{folder.name}: the gradient is not finite at step {step}; lower lr (now {lr})")
            optimizer.step()
            average.update_parameters(model)
            total += loss.item()
            if (step + 1) % 50 == 0:
                now = time.monotonic()
                done = step + 1 - seen
                writer.writerow([step + 1, f"{total / done:.5f}", f"{done / (now - since):.3f}", figures])
                log.flush()
                since, seen, total = now, step + 1, 0.0
            if rank == 0 and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
                state = {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                with atomic_write(checkpoint) as temporary:
                    torch.save(state, temporary)
            bar.update(shown, completed=step + 1, loss=f"loss {loss.item():.4f}")
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return figures


def _cut_log(path: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: these steps are done and logged again."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines(keepends=True) if int(line.split(",")[0]) <= step]
        write_file(path, "".join(kept))


def _average_gradients(trained: list[nn.Parameter], processes: int) -> None:
    if processes == 1:
        return
    gradients = [p.grad for p in trained if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / processes).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _resume(checkpoint: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not checkpoint.exists():
        return 0
    try:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(
            f"{checkpoint} is damaged or does not fit this configuration; move it away or restore the old one"
        ) from error
    return int(state["step"])
