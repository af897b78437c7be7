"""How long the commands take to start: each with the least work on the toybox, and with nothing to do.

A machine may be shared, so CPU seconds count (of user and system, one thread), next to those of `import torch` in the
same turn. The result is startup.md and startup.csv in `out`.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from omegaconf import DictConfig

from dti_repro.experiments.markdown import markdown
from measured import commit, write_result

SRC = Path(__file__).parents[1] / "src"
TORCH = "import torch"
FIRST_STEP = "train, until its first step is in log.csv"
LIBRARIES = (
    "import pytorch_lightning; from transformers import CLIPTextModel; "
    "from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel"
)
MORE = 10**6  # a seed that no turn has
SHOWN = 12  # packages in the table of imports
PACKAGES = ("torch", "transformers", "diffusers", "pytorch-lightning", "torchmetrics")


@dataclass
class Measured:
    """A command's CPU and wall seconds, one of each a turn."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


class Commands:
    """The commands of one checkout, in a folder of its own, with a trained, drawn and scored word to work on."""

    def __init__(self, src: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1"}
        folder.mkdir()
        self.run(self.train(0))
        self.run(self.generate(0))
        self.run(self.evaluate())

    @property
    def concept(self) -> Path:
        return next(self.folder.glob("runs/toybox/dti/*/seed_0/bird"))

    def train(self, seed: int) -> list[str]:
        trainer = ["trainer.steps=1", "trainer.batch=1", "trainer.threads=1", "trainer.progress=false"]
        return ["-m", "dti_repro.train", "concepts.names=[bird]", f"seed={seed}", "trainer.accelerator=cpu", *trainer]

    def generate(self, seed: int) -> list[str]:
        least = ["steps=1", f"seeds=[{seed}]", "threads=1", "accelerator=cpu", "progress=false"]
        return ["-m", "dti_repro.generate", f"run={self.concept}", "prompts=['a {}']", *least]

    def evaluate(self) -> list[str]:
        return ["-m", "dti_repro.evaluate", f"run={self.concept}", "metrics=[toybox_image]", "accelerator=cpu"]

    def turn(self, number: int) -> dict[str, tuple[float | None, float]]:
        """Return what -> CPU seconds (None for the first step) and wall seconds, once each; number: 1, 2, ..."""
        began = time.time()
        trained = self.run(self.train(number))
        (log,) = self.folder.glob(f"runs/toybox/dti/*/seed_{number}/bird/log.csv")
        times = {
            FIRST_STEP: (None, log.stat().st_mtime - began),
            "train, one step": trained,
            "train, done before": self.run(self.train(number)),
            "generate, one image of one step": self.run(self.generate(number)),
            "generate, done before": self.run(self.generate(number)),
        }
        shutil.rmtree(self.concept / "scores")
        times["evaluate, an image scorer"] = self.run(self.evaluate())
        times["evaluate, done before"] = self.run(self.evaluate())
        times["table of one run"] = self.run(["-m", "dti_repro.table", f"runs={self.concept}", "out=table"])
        refused = ["-m", "dti_repro.report", "experiment=main_table", "out=none", "runs=none"]
        times["report, nothing to show (an error)"] = self.run(refused, code=2)
        return times

    def run(self, arguments: Sequence[str], code: int = 0) -> tuple[float, float]:
        """Run Python with these arguments; return the CPU and wall seconds of the process."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != code:
            raise RuntimeError(f"exit code {process.returncode} of {' '.join(arguments)}")
        return used.ru_utime + used.ru_stime, wall

    def imports(self) -> Counter[str]:
        """Return package -> CPU seconds of its own modules' imports in a training, the largest share of a start."""
        command = [sys.executable, "-X", "importtime", *self.train(MORE)]
        told = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        )
        seconds: Counter[str] = Counter()
        for microseconds, module in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", told.stderr, re.MULTILINE):
            seconds[module.partition(".")[0]] += int(microseconds) / 1e6
        return seconds


def measure(cfg: DictConfig, scratch: Path) -> tuple[dict[str, dict[str, Measured]], Counter[str]]:
    """Return side -> what -> seconds, turn by turn, and the imports of a training."""
    sources = {"now": SRC} | ({"before": Path(cfg.before).resolve()} if cfg.before else {})
    sides = {side: Commands(src, scratch / side) for side, src in sources.items()}
    found: dict[str, dict[str, Measured]] = {side: {} for side in sides}
    for number in range(1, cfg.repeats + 1):
        for side, commands in sides.items():
            alone = {TORCH: TORCH, "the libraries of train alone": LIBRARIES} if side == "now" else {}
            times = {what: commands.run(["-c", code]) for what, code in alone.items()} | commands.turn(number)
            for what, (cpu, wall) in times.items():
                measured = found[side].setdefault(what, Measured())
                measured.cpu += [] if cpu is None else [cpu]
                measured.wall.append(wall)
        print(f"turn {number} of {cfg.repeats}", flush=True)
    return found, sides["now"].imports()


def rows(found: Mapping[str, Mapping[str, Measured]]) -> list[list[str]]:
    """Return the lines of the table, its head first."""
    before = found.get("before", {})
    lines = [["command", "CPU s", "CPU s / import torch", "wall s", *(["before / now, CPU s"] if before else [])]]
    torch = found["now"][TORCH].cpu
    for what, now in found["now"].items():
        ratio = [a / b for a, b in zip(now.cpu, torch, strict=bool(now.cpu))]
        line = [what, _spread(now.cpu), _spread(ratio), _spread(now.wall)]
        if before:
            pairs = zip(before[what].cpu, now.cpu, strict=True) if what in before else ()
            line.append(_spread([a / b for a, b in pairs]))
        lines.append(line)
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def write(lines: Sequence[Sequence[str]], imports: Counter[str], cfg: DictConfig) -> None:
    before = f" Before: {commit(Path(cfg.before))}." if cfg.before else ""
    key = " before=<src of another checkout>" if cfg.before else ""
    about = (
        f"Made by `python benchmarks/startup.py{key}`: median (least to most) of {cfg.repeats} turns, one thread, the "
        f"toybox. Whole commands, from the start of Python to its end.{before}"
    )
    more = [
        "## What `train` imports",
        "",
        "Seconds of the modules themselves, by package (`python -X importtime`, once):",
        "",
        markdown([["package", "s"], *([name, f"{s:.2f}"] for name, s in imports.most_common(SHOWN))]),
    ]
    write_result(Path(cfg.out), "startup", "How long a command takes to start", about, lines, PACKAGES, more)


@hydra.main(version_base="1.3", config_path=".", config_name="startup")
def main(cfg: DictConfig) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found, imports = measure(cfg, Path(scratch))
    write(rows(found), imports, cfg)


if __name__ == "__main__":
    main()
