"""Run every stage of a backbone at its published widths on random weights, and measure memory and time.

A checkpoint is built once. Then each stage is a process: train with TI and with DTI, kill, resume, generate, evaluate,
export, load in diffusers. Its peak of memory stands beside what `plan` predicts. The result is a row of full_width.csv
and full_width.md in `out`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pandas import DataFrame, concat, read_csv

from dti_repro.artifacts.files import atomic_write, read_json, read_yaml, user_path, write_file
from dti_repro.artifacts.lock import locked
from dti_repro.backbones.local_cache import cache_folder, create_once
from dti_repro.backbones.published import FOLDER, published_file
from dti_repro.errors import InputError, ProcessDiedError
from dti_repro.experiments.markdown import markdown
from dti_repro.inference.export import BACKBONES as EXPORTED

GIB = 2**30
PROMPT = "a {} on the grass"
STAGES = {  # name -> its head in the table
    "build": "build",
    "load": "load",
    "train_ti": "train TI",
    "train_dti": "train DTI, killed",
    "resume_dti": "resume DTI",
    "generate": "generate",
    "evaluate": "evaluate",
    "export": "export",
    "diffusers": "draw in diffusers",
}
MEMORY = {"weights": "weights", "training": "a training sample", "drawing": "a picture"}
PACKAGES = ("torch", "diffusers", "transformers")
PAGE = """\
# Every stage at full width

Made by `dti full_width backbone=<name>` on a CPU: random weights in bfloat16, batches of one picture, gradient
checkpointing. The csv has the same in bytes and seconds, and versions.

Memory in GiB, and in brackets how far it is from what `dti plan` predicts. A sample and a picture: what torch allocates
at most besides the weights, by its profiler, in the process of the stage "load". The plan is that of a GPU. On a CPU
autocast leaves norms in bfloat16, and convolutions copy their weights into another order. What a library keeps outside
of torch's tensors is in the peak of the process.

{memory}
Seconds, and the peak of the process in GiB:

{stages}"""


@dataclass(frozen=True)
class Folders:
    """Where the checkpoint, the evaluators and what the stages write lie."""

    checkpoint: Path
    evaluators: Path
    work: Path

    @classmethod
    def of(cls, cfg: DictConfig) -> Folders:
        """Return the folders of a configuration. InputError for a backbone without published configs."""
        file = published_file(cfg.backbone.name)
        if file is None:
            known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
            raise InputError(f"backbone={cfg.backbone.name} has no published configs here: choose one of {known}")
        root = user_path(cfg.folder) if cfg.folder else cache_folder("full_width", cfg.backbone.name)
        digest = hashlib.sha256(f"{file.read_text()}{_widths(cfg)}".encode()).hexdigest()[:8]
        return cls(*(root.resolve() / f"{name}-{digest}" for name in ("checkpoint", "evaluators", "work")))


@dataclass
class Stages:
    """Run stages in processes. measured: name -> its seconds and its peak of memory in bytes."""

    logs: Path
    measured: dict[str, tuple[float, int]] = field(default_factory=dict)
    failed: str = ""

    def run(self, name: str, *arguments: str, until: Callable[[], bool] | None = None) -> str:
        """Run Python with these arguments and return the last line that it prints. until: kill it once this is true.

        ProcessDiedError that names the log if it fails, or ends before it is killed.
        """
        log = self.logs / f"{name}.log"
        print(f"{name}: {log}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        killed = False
        with log.open("wb") as output:
            process = subprocess.Popen([sys.executable, "-P", *arguments], stdout=output, stderr=subprocess.STDOUT)
            while (end := os.wait4(process.pid, os.WNOHANG))[0] == 0:  # unlike Popen.wait, it tells the peak
                if until is not None and not killed and until():
                    os.kill(process.pid, signal.SIGKILL)  # Popen.kill polls first, and may reap it and lose its usage
                    killed = True
                time.sleep(0.02)
        _, status, usage = end
        process.returncode = os.waitstatus_to_exitcode(status)
        self.measured[name] = time.perf_counter() - began, usage.ru_maxrss * 1024
        last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
        if process.returncode != (-signal.SIGKILL if killed else 0) or killed != (until is not None):
            self.failed = name
            code, wanted = process.returncode, "" if until is None else ", before it was to be killed"
            how = f"was killed by signal {-code}, as when memory is full" if code < 0 else f"ended with code {code}"
            raise ProcessDiedError(f"{name} {how}{wanted} ({last[:200]}): its log is {log}")
        return last


def full_width(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Run all stages and write the row, also that of a chain that fails, whose logs stay. A command that is stopped
    leaves the row of an earlier one. overrides: as typed."""
    place = Folders.of(cfg)
    lock = place.work.with_suffix(".lock")
    with locked(lock, f"{place.work} is in use"):
        shutil.rmtree(place.work, ignore_errors=True)
        stages = Stages(place.work / "logs")
        row: dict[str, Any] = {"backbone": cfg.backbone.name, "pixels": cfg.backbone.resolution}
        try:
            _run_stages(cfg, overrides, place, stages, row)
        except ProcessDiedError:
            _write(Path(cfg.out), row, stages)
            raise
        else:
            _write(Path(cfg.out), row, stages)
        finally:
            if cfg.delete:
                logs = () if stages.failed else (place.work,)
                for folder in (place.checkpoint, place.evaluators, *logs):
                    shutil.rmtree(folder, ignore_errors=True)
                lock.unlink()


def _run_stages(cfg: DictConfig, overrides: Sequence[str], place: Folders, stages: Stages, row: dict[str, Any]) -> None:
    """Run all stages, and add to the row what they say."""
    ours = partial(_module, "full_width", *overrides)
    backbone = [f"backbone={HydraConfig.get().runtime.choices['backbone']}", f"backbone.path={place.checkpoint}"]
    backbone += [f"backbone.{key}={cfg.backbone[key]}" for key in ("resolution", "checkpointing")]
    backbone += [text for text in overrides if text.startswith("backbone.")]
    photos = f"concepts.names=[{cfg.concept}]"
    runs, prompts = place.work / "runs", place.work / "prompts.txt"
    size = [f"{side}={cfg.backbone.resolution}" for side in ("height", "width")]
    drawn = ",".join(json.dumps(text) for text in (f"prompts={prompts}", *size, *cfg.generate))

    stages.run("build", *ours("only=build"))
    prompts.write_text(f"{PROMPT}\n")
    predicted = place.work / "plan.json"
    plan = ["method=dti", *backbone, photos, *cfg.train, "device=cpu", f"generate=[{drawn}]", f"out={predicted}"]
    stages.run("plan", *_module("plan", *plan))
    row |= _predicted(read_json(predicted, "run full_width again"))
    row |= json.loads(stages.run("load", *ours("only=load")))

    quiet = ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.checkpoint_every=1"]
    train = [*backbone, photos, f"runs={runs}", *quiet, *cfg.train]
    stages.run("train_ti", *_module("train", "method=ti", *train))
    learned = f"{cfg.backbone.name}/dti/*/seed_*/{cfg.concept}"
    learn = _module("train", "method=dti", *train)
    stages.run("train_dti", *learn, until=lambda: any(runs.glob(f"{learned}/last.ckpt")))
    stages.run("resume_dti", *learn)
    run = next(runs.glob(learned))
    draw = [f"prompts={prompts}", "sampler=default", *size, "accelerator=cpu", "progress=false", *cfg.generate]
    stages.run("generate", *_module("generate", f"run={run}", *backbone, *draw))
    metrics = ",".join(str(place.evaluators / f"{metric}.yaml") for metric in cfg.metrics)
    stages.run("evaluate", *_module("evaluate", f"run={run}", f"metrics=[{metrics}]", "accelerator=cpu"))
    if cfg.backbone._target_.startswith(EXPORTED):
        exports = place.work / "exports"
        stages.run("export", *_module("export", f"run={run}", "to=diffusers", f"out={exports}"))
        stages.run("diffusers", str(_in_diffusers(next(exports.rglob("*.txt")), place, cfg.backbone.resolution)))


def _widths(cfg: DictConfig) -> dict[str, Any]:
    """Return part of the checkpoint, or checkpoint of an evaluator -> keys of its config."""
    return {} if cfg.widths is None else read_yaml(user_path(cfg.widths))


def _module(name: str, *arguments: str) -> list[str]:
    return ["-m", f"dti_repro.{name}", *arguments]


def build(cfg: DictConfig) -> None:
    """Write the checkpoint and the evaluators that are missing."""
    import torch

    from dti_repro.backbones.untrained import write_checkpoint
    from dti_repro.metrics.networks import write_untrained_metric

    place, backbone = Folders.of(cfg), OmegaConf.to_container(cfg.backbone)
    torch.manual_seed(0)
    file = published_file(backbone["name"])
    create_once(place.checkpoint, partial(write_checkpoint, backbone, file, weights=True, widths=_widths(cfg)))
    for metric in cfg.metrics:
        write_untrained_metric(metric, place.evaluators, _widths(cfg))


def load(cfg: DictConfig) -> None:
    """Print the memory that the checkpoint takes."""
    from dti_repro.cost.memory import memory_of

    cfg.backbone.path = str(Folders.of(cfg).checkpoint)
    print(json.dumps(memory_of(cfg.backbone, PROMPT)))


def _in_diffusers(text: Path, place: Folders, side: int) -> Path:
    """Write a script of the text that comes with an export: it reads our checkpoint, and draws."""
    checkpoint = f"from_pretrained({str(place.checkpoint)!r}, torch_dtype=torch.bfloat16)"
    loading = re.sub(r"from_pretrained\(.*?\)", lambda _: checkpoint, text.read_text(), count=1)
    script = place.work / "in_diffusers.py"
    drawing = f"pipeline(prompt, num_inference_steps=2, height={side}, width={side})"
    script.write_text(f"import os, torch\n\nos.chdir({str(text.parent)!r})\n{loading}{drawing}\n")
    return script


def _predicted(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan's numbers: bytes and seconds."""
    model, memory = plan["model"], {entry["name"]: entry for entry in plan["memory"]}
    seconds = {stage["name"]: stage["hours"] * 3600 for stage in plan["stages"]}
    return {
        "parameters": sum(model["parameters"].values()),
        "weights planned": memory["train"]["weights"],
        "training planned": memory["train"]["each"],
        "drawing planned": memory["draw"]["each"],
        "training seconds planned": seconds["train"],
        "drawing seconds planned": seconds["draw"],
    }


def _write(out: Path, row: dict[str, Any], stages: Stages) -> None:
    """Write the row in place of an earlier one of this backbone, and the page of all rows."""
    for name, (seconds, peak) in stages.measured.items():
        row |= {f"{name} seconds": round(seconds, 1), f"{name} peak": peak}
    row |= {"failed": stages.failed, "cores": os.cpu_count(), **{package: version(package) for package in PACKAGES}}
    file = out / "full_width.csv"
    rows = DataFrame([{key: str(value) for key, value in row.items()}])
    if file.is_file():
        rows = concat([read_csv(file, dtype=str, keep_default_na=False), rows])
    rows = rows.drop_duplicates("backbone", keep="last").sort_values("backbone").fillna("")
    with atomic_write(file) as temporary:
        rows.to_csv(temporary, index=False, lineterminator="\n")
    write_file(out / "full_width.md", _page(rows.to_dict("records")))
    print(out / "full_width.md")


def _page(rows: Sequence[Mapping[str, str]]) -> str:
    memory = [["backbone", "parameters", "pixels", *MEMORY.values()]]
    stages = [["backbone", *STAGES.values()]]
    for row in rows:
        billions = f"{int(row['parameters']) / 1e9:.2f} B" if row.get("parameters") else ""
        memory.append([row["backbone"], billions, row["pixels"], *(_beside_plan(row, key) for key in MEMORY)])
        stages.append([row["backbone"], *(_stage(row, stage) for stage in STAGES)])
    return PAGE.format(memory=markdown(memory), stages=markdown(stages))


def _beside_plan(row: Mapping[str, str], key: str) -> str:
    if not row.get(key):
        return ""
    found, planned = float(row[key]), float(row[f"{key} planned"])
    return f"{found / GIB:.2f} ({found / planned - 1:+.0%})"


def _stage(row: Mapping[str, str], stage: str) -> str:
    if not row.get(f"{stage} seconds"):
        return "-"
    text = f"{float(row[f'{stage} seconds']):.0f} s, {float(row[f'{stage} peak']) / GIB:.1f}"
    return f"{text}, failed" if row["failed"] == stage else text
