"""What each method costs beside Textual Inversion: CPU seconds of a training step and of an image.

All methods take their turn in each round, in one process that loads a model once, and every other round goes backwards.
Ratios to TI of the same round count. The result is method_cost.md and method_cost.csv in `out`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.load import load_backbone
from dti_repro.launch.command_line import compose
from dti_repro.methods.word_files import load_word
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.train_missing import train
from measured import write_result
from narrow import narrow_sdxl

BASE = "ti"
PROMPT = "a <{}> on the beach"
TEMPLATES = ["a photo of a {} {class}", "a picture of a {} {class}"]  # AttnDreamBooth needs the class word
SEEDS = (0, 1)


@dataclass
class Case:
    """One backbone at one size of image."""

    setup: Sequence[str]  # overrides of a training
    size: int | None  # pixels, None for the model's own
    steps: int  # of the sampler
    runs: Path
    cfg: DictConfig

    def train(self, method: str) -> tuple[ConceptFolder, float]:
        """Train one concept in a new folder and return the CPU seconds of a step, the median of all but the first."""
        seconds: list[float] = []
        step = InversionModule.training_step

        @wraps(step)
        def timed(*arguments: Any) -> None:
            began = time.process_time()
            step(*arguments)
            seconds.append(time.process_time() - began)

        keys = [f"method={method}", "concepts=toybox", "concepts.names=[bird]", "templates=toybox"]
        keys += [f"templates.prompts={TEMPLATES}"]
        keys += ["trainer.accelerator=cpu", "trainer.progress=false", f"trainer.threads={self.cfg.threads}"]
        keys += [f"trainer.batch={self.cfg.batch}", f"trainer.steps={self.cfg.steps + 1}"]
        composed = compose("train", [*self.setup, *keys, f'runs="{tempfile.mkdtemp(dir=self.runs)}"'])
        self._backbone = load_backbone(composed.backbone, "cpu")
        with patch.object(InversionModule, "training_step", timed):
            (folder,) = train(composed)
        return folder, statistics.median(seconds[1:])

    def draw(self, folder: ConceptFolder) -> float:
        """Draw one image of each seed, in one batch, and return the CPU seconds of an image."""
        word = load_word(folder.embedding, self._backbone.spec)
        began = time.process_time()
        self._backbone.generate(
            [PROMPT.format(folder.name)] * len(SEEDS),
            {f"<{folder.name}>": word},
            SEEDS,
            steps=self.steps,
            guidance=5.0,
            height=self.size,
            width=self.size,
        )
        return (time.process_time() - began) / len(SEEDS)


def measure(case: Case, methods: Sequence[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return method -> CPU seconds of a step and of an image, one pair a round."""
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    case.draw(case.train(BASE)[0])  # whatever only a first time costs
    for number in range(rounds):
        for method in methods if number % 2 == 0 else reversed(methods):
            folder, step = case.train(method)
            found[method].append((step, case.draw(folder)))
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def rows_of(name: str, found: dict[str, list[tuple[float, float]]]) -> list[list[str]]:
    """Return a row for each method: medians of the seconds, and of the ratios to TI's in the same round with least and
    most."""
    rows = []
    for method, rounds in found.items():
        row = [name, method]
        for turns, base in zip(zip(*rounds, strict=True), zip(*found[BASE], strict=True), strict=True):
            ratios = [turn / other for turn, other in zip(turns, base, strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            row += [f"{statistics.median(turns):.3f}", f"{statistics.median(ratios):.2f}", spread]
        rows.append(row)
    return rows


@hydra.main(version_base="1.3", config_path=".", config_name="method_cost")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    methods = [BASE, *(method for method in cfg.methods if method != BASE)]
    rows = [["backbone", "method"]]
    for kind in ("step", "image"):
        rows[0] += [f"{kind}, CPU s", f"{kind}, times TI", f"{kind}, range"]
    with tempfile.TemporaryDirectory() as scratch:
        runs, narrow = Path(scratch) / "runs", narrow_sdxl(Path(scratch) / "narrow")
        runs.mkdir()
        sdxl = ["backbone=sdxl", f'backbone.path="{narrow}"', f"backbone.resolution={cfg.sdxl.size}"]
        sdxl += ["backbone.dtype=float32"]
        toybox = Case(["backbone=toybox"], None, cfg.toybox.image_steps, runs, cfg)
        rows += rows_of("toybox", measure(toybox, methods, cfg.rounds))
        other = Case(sdxl, cfg.sdxl.size, cfg.sdxl.image_steps, runs, cfg)
        rows += rows_of(f"narrow SDXL, {cfg.sdxl.size} px", measure(other, methods, cfg.rounds))
    command = " ".join(["python benchmarks/method_cost.py", *sys.argv[1:]])
    about = (
        f"Made by `{command}`: medians of {cfg.rounds} rounds, in each of which every method took its turn. A step has "
        f"{cfg.batch} samples: losses and gradients, the optimizer, the log's row. Images are drawn in a batch of "
        f"{len(SEEDS)}, of one prompt, with guidance 5, in {cfg.toybox.image_steps} steps on the toybox "
        f"and {cfg.sdxl.image_steps} on SDXL. `times TI`: ratio of CPU seconds to TI's in the same round, median and "
        "range. Compare ratios: seconds are this machine's, of one thread. The narrow SDXL has SDXL's layers, a tenth "
        "as wide. At this size its text encoders cost more beside its UNet than at SDXL's own, so what a method "
        "encodes more often weighs more."
    )
    title = "What each method costs beside Textual Inversion"
    write_result(Path(cfg.out), "method_cost", title, about, rows, ["torch", "diffusers"])


if __name__ == "__main__":
    main()
