"""What each method costs beside Textual Inversion: seconds of a training step and of an image.

Every method takes its turn in each round, so that whatever else the machine does slows all of them. A step's time is
the difference between a long and a short training, so that what a training does once does not count. The result is
method_cost.md and method_cost.csv in `out`.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.files import atomic_write
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.backbones.load import load_backbone
from dti_repro.config import CONF
from dti_repro.methods.word_files import load_word
from dti_repro.training.train_missing import train
from narrow import narrow_sdxl, processor

BASE = "ti"
PROMPTS = ("a photo of a <{}>", "a <{}> on the beach", "a <{}> on the grass", "a red <{}>")


@dataclass(frozen=True)
class Seconds:
    """Wall and CPU seconds of one turn."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, action: Callable[[], object]) -> Seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


class Case:
    """One backbone. sizes: the keys that shorten its trainings and drawings."""

    def __init__(self, name: str, backbone: str, checkpoint: Path, runs: Path, cfg: DictConfig) -> None:
        self.name = name
        self._runs = runs
        self.cfg = cfg
        self._keys = [f"backbone={backbone}", f'backbone.path="{checkpoint}"', "concepts=toybox", "templates=toybox"]
        if backbone != "toybox":
            self._keys += ["backbone.resolution=256", "backbone.dtype=float32"]

    def train(self, method: str, steps: int) -> ConceptFolder:
        """Train one concept in a new folder."""
        keys = [f"method={method}", "concepts.names=[bird]", "trainer.accelerator=cpu", "trainer.progress=false"]
        keys += [f"trainer.steps={steps}", f"trainer.batch={self.cfg.batch}", f"trainer.threads={self.cfg.threads}"]
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            composed = hydra.compose("train", [*self._keys, *keys, f'runs="{tempfile.mkdtemp(dir=self._runs)}"'])
        self.backbone = load_backbone(composed.backbone, "cpu")
        return train(composed)[0]

    def draw(self, folder: ConceptFolder) -> None:
        """Draw each prompt with two seeds, in one batch."""
        word = load_word(folder.embedding, self.backbone.spec)
        prompts = [prompt.format(folder.name) for prompt in PROMPTS for _ in range(2)]
        seeds = [0, 1] * len(PROMPTS)
        self.backbone.generate(prompts, {f"<{folder.name}>": word}, seeds, steps=self.cfg.image_steps, guidance=5.0)


def measure(case: Case, methods: Sequence[str], repeats: int) -> dict[str, dict[str, list[Seconds]]]:
    """Return method -> step | image -> seconds of each round. One round before the clock counts."""
    short, long = 2, 2 + case.cfg.steps
    folders = {method: case.train(method, short) for method in methods}
    for folder in folders.values():
        case.draw(folder)
    found = {method: {"step": [], "image": []} for method in methods}
    for _ in range(repeats):
        for method, folder in folders.items():
            least, most = (Seconds.of(lambda steps=steps, m=method: case.train(m, steps)) for steps in (short, long))
            step = Seconds((most.wall - least.wall) / case.cfg.steps, (most.cpu - least.cpu) / case.cfg.steps)
            drawn, images = Seconds.of(lambda f=folder: case.draw(f)), 2 * len(PROMPTS)
            found[method]["step"].append(step)
            found[method]["image"].append(Seconds(drawn.wall / images, drawn.cpu / images))
    return found


def rows_of(case: Case, found: dict[str, dict[str, list[Seconds]]]) -> list[list[str]]:
    """Return a row for each method: medians of wall and CPU seconds, and of the ratios of CPU seconds to TI's."""
    rows = []
    for method, kinds in found.items():
        row = [case.name, method]
        for kind, turns in kinds.items():
            ratios = [turn.cpu / base.cpu for turn, base in zip(turns, found[BASE][kind], strict=True)]
            wall, cpu = (statistics.median(getattr(turn, unit) for turn in turns) for unit in ("wall", "cpu"))
            row += [f"{wall:.3f}", f"{cpu:.3f}", f"{statistics.median(ratios):.2f}"]
            row.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        rows.append(row)
    return rows


def write(rows: Sequence[Sequence[str]], folder: Path, command: str, cfg: DictConfig) -> None:
    """Write both files."""
    header = ["backbone", "method"]
    for kind in ("step", "image"):
        header += [f"{kind}, wall s", f"{kind}, CPU s", f"{kind}, times TI", f"{kind}, range"]
    with atomic_write(folder / "method_cost.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    lines = [
        "# What each method costs beside Textual Inversion",
        "",
        f"Made by `{command}`: medians of {cfg.repeats} rounds, in each of which every method took its turn. A step "
        f"has {cfg.batch} samples; images are drawn in one batch of {2 * len(PROMPTS)} ({len(PROMPTS)} prompts, 2 "
        f"seeds) with {cfg.image_steps} steps and guidance 5. `times TI`: ratio of CPU seconds to TI's in the same "
        "round, median and range. Compare ratios: seconds are this machine's.",
        "",
        f"{processor()}, {os.cpu_count()} CPUs, {cfg.threads} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}; load average at the end {os.getloadavg()[0]:.1f}.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    with atomic_write(folder / "method_cost.md") as temporary:
        temporary.write_text("\n".join(lines))


@hydra.main(version_base="1.3", config_path=".", config_name="method_cost")
def main(cfg: DictConfig) -> None:
    hydra.core.global_hydra.GlobalHydra.instance().clear()  # the trainings compose configurations of their own
    torch.set_num_threads(cfg.threads)
    methods = [BASE, *(method for method in cfg.methods if method != BASE)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs, narrow = Path(folder) / "runs", narrow_sdxl(Path(folder) / "narrow")
        runs.mkdir()
        for name, backbone, checkpoint in (
            ("toybox", "toybox", PACKAGED),
            ("narrow SDXL, 256 px", "sdxl", narrow),
        ):
            case = Case(name, backbone, checkpoint, runs, cfg)
            rows += rows_of(case, measure(case, methods, cfg.repeats))
    command = " ".join(["python benchmarks/method_cost.py", *sys.argv[1:]])
    write(rows, Path(cfg.out), command, cfg)


if __name__ == "__main__":
    main()
