"""How near training and drawing come to what a GPU can do, at a backbone's published widths and sizes.

The weights are random. The limit is the rate of a large product of bfloat16 matrices, measured on the same GPU just
before. FLOPs are counted as `dti plan` counts them. The result is gpu.md and gpu.csv in `out`, written again after each
measurement.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch.optim.optimizer import register_optimizer_step_post_hook

from dti_repro.backbones.load import device_of, load_backbone
from dti_repro.backbones.local_cache import create_once
from dti_repro.backbones.published import published_file
from dti_repro.backbones.untrained import write_checkpoint
from dti_repro.cost.models import ModelCost
from dti_repro.data.concept import Toybox
from dti_repro.errors import is_out_of_memory
from dti_repro.launch.command_line import compose
from dti_repro.training.train_missing import train
from measured import write_result

HEAD = ["what", "at once", "seconds", "a second", "TFLOP/s", "of the limit", "peak GiB"]
TRAINING = ["method=dti", "concepts=toybox", "templates=object", "trainer.precision=bf16", "trainer.accelerator=gpu"]
TRAINING += ["trainer.progress=false", "trainer.checkpoint_every=1000"]
PROMPT = "a photo of a cat on the beach"
REPEATS = 10
WARM_UP = 3  # steps that are not timed: they compile, and the allocator finds its sizes


class Table:
    """The rows of the result. limit: FLOP/s of a large matrix product."""

    def __init__(self, cfg: DictConfig, limit: float) -> None:
        self._cfg = cfg
        self._limit = limit
        self._rows = [HEAD]

    def measure(self, what: str, units: int, flops: float, work: Callable[[], float]) -> None:
        """Add a row: work() returns the seconds that `units` samples or images and these FLOPs take."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            seconds = work()
            rate, peak = flops / seconds, torch.cuda.max_memory_allocated() / 2**30
            shares = [f"{rate / 1e12:.0f}", f"{rate / self._limit:.0%}"]
            cells = [f"{seconds:.3f}", f"{units / seconds:.2f}", *shares, f"{peak:.1f}"]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            cells = ["does not fit", "", "", "", ""]
        self._rows.append([what, str(units), *cells])
        print(*self._rows[-1], sep="\t", flush=True)
        self._write()

    def _write(self) -> None:
        cfg, memory = self._cfg, torch.cuda.get_device_properties(0).total_memory / 2**30
        about = (
            f"Made by `{' '.join(['python', *sys.argv])}` on one {torch.cuda.get_device_name()} ({memory:.0f} GiB): "
            f"{cfg.backbone} with random weights in bfloat16. The limit is {self._limit / 1e12:.0f} TFLOP/s, the "
            f"median rate of {REPEATS} products of {cfg.matrix} x {cfg.matrix} matrices in bfloat16. A step's samples "
            f"are those of all concepts; its time is the mean of steps {WARM_UP + 1} to {cfg.steps} of a training. "
            "FLOPs are those of matrix products, convolutions and attention."
        )
        write_result(Path(cfg.out), "gpu", "On a GPU", about, self._rows, ["torch", "diffusers", "transformers"])


def product_rate(side: int) -> float:
    """Return FLOP/s of a product of two random square matrices in bfloat16."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = [_timed(lambda: a @ b) for _ in range(REPEATS + 3)][3:]
    return 2 * side**3 / statistics.median(seconds)


def _timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def training(cfg: DictConfig, checkpoint: Path, names: Sequence[str], *more: str) -> DictConfig:
    """Return the configuration of a training in a folder that is thrown away."""
    keys = [f"backbone={cfg.backbone}", f"backbone.path={checkpoint}", f"concepts.names=[{','.join(names)}]"]
    keys += [f"trainer.steps={cfg.steps}", f"trainer.pack={len(names)}", *cfg.overrides, *more]
    return compose("train", [*TRAINING, *keys])


def seconds_of_step(cfg: DictConfig, checkpoint: Path, names: Sequence[str], *more: str) -> float:
    """Return the mean seconds of the training steps of these concepts at once, from step WARM_UP on."""
    stamps: list[float] = []

    def stamp(*_: object) -> None:
        if len(stamps) + 1 in (WARM_UP, cfg.steps):  # elsewhere Python may run ahead of the GPU, as it does in use
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    hook = register_optimizer_step_post_hook(stamp)
    try:
        with tempfile.TemporaryDirectory() as runs:
            train(training(cfg, checkpoint, names, *more, f"runs={runs}"))
    finally:
        hook.remove()
    return (stamps[-1] - stamps[WARM_UP - 1]) / (cfg.steps - WARM_UP)


@hydra.main(version_base="1.3", config_path=".", config_name="gpu")
def main(cfg: DictConfig) -> None:
    device_of("gpu")  # one line instead of a torch error where there is none
    table = Table(cfg, product_rate(cfg.matrix))
    names = [concept.name for concept in Toybox(names="all").load()]
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = (Path(cfg.folder) if cfg.folder else Path(scratch)) / cfg.backbone
        one = training(cfg, checkpoint, names[:1])
        node, batch = OmegaConf.to_container(one.backbone), one.trainer.batch
        torch.manual_seed(0)
        with torch.device("cuda"):  # random numbers for billions of weights take a GPU seconds
            create_once(checkpoint, partial(write_checkpoint, node, published_file(cfg.backbone), weights=True))
        cost = ModelCost(node, "bf16")
        for compiled in cfg.compile:
            for count in cfg.concepts:
                what = f"training step, {count} concepts{', compiled' if compiled else ''}"
                seconds = partial(seconds_of_step, cfg, checkpoint, names[:count], f"backbone.compile={compiled}")
                table.measure(what, batch * count, batch * count * cost.sample.flops, seconds)
        if cfg.images:
            backbone, sampling = load_backbone(one.backbone, "gpu"), one.backbone.generation
            size = cost.image_size()
            latents, decoding = cost.image(*size, sampling.steps, sampling.guidance)

            def draw(steps: int = sampling.steps) -> None:
                seeds = list(range(cfg.images))
                backbone.generate([PROMPT] * cfg.images, {}, seeds, steps=steps, guidance=sampling.guidance)

            draw(2)
            what = f"images of {size[0]} x {size[1]}, {sampling.steps} steps"
            table.measure(what, cfg.images, cfg.images * (latents.flops + decoding.flops), lambda: _timed(draw))


if __name__ == "__main__":
    main()
