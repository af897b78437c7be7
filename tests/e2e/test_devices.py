"""Two processes write what one writes, to the byte, and a death among them costs nothing but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train
from tests.composed import composed
from tests.crash import content
from tests.e2e.trained import trained_run, vectors

Compose = Callable[..., DictConfig]


def processes_of(parent: int) -> list[int]:
    """Those that it started to share its work."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"--multiprocessing-fork" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_concepts_are_trained_by_two_processes_of_which_one_dies(training: Compose, tmp_path: Path) -> None:
    """With a method that trains another one first, and transforms what that learned."""
    ask = ["method=ti_rescaled", "concepts.names=all", "trainer.steps=40", "trainer.checkpoint_every=2"]
    train(training(*ask, f"runs={tmp_path / 'one'}"))
    two = training(*ask, "trainer.devices=2", f"runs={tmp_path / 'two'}")
    assert run_folder(two).config_hash == run_folder(training(*ask)).config_hash

    places = [f"backbone.path={two.backbone.path}", f"concepts.root={two.concepts.root}", f"runs={two.runs}"]
    short = ["trainer.batch=2", "trainer.threads=1", "trainer.progress=false", "trainer.accelerator=cpu"]
    command = [sys.executable, "-m", "dti_repro.train", *ask, *places, *short, "trainer.devices=2"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while started.poll() is None and not list(Path(two.runs).rglob("ann/last.ckpt")):
        time.sleep(0.005)
    workers = processes_of(started.pid)
    os.kill(workers[0], signal.SIGKILL)  # which has ann and, in the same pack, cid
    out, err = started.communicate()
    assert started.returncode == 1
    assert err.startswith("error: process 1 of 2 ended by SIGKILL, and with it the others: ")
    assert (out, err.count("\n")) == ("", 1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not run_folder(two).concept("ann").is_done()

    assert [folder.name for folder in train(two)] == ["ann", "bob", "cid"]
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
def test_pictures_are_drawn_and_scored_by_two_processes(
    compose: Compose, world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = [f"prompts={world}/prompts.yaml", "steps=1", "seeds=[0,1,2]", "batch=2", "accelerator=cpu"]
    metrics = f"metrics=[{world}/image.yaml,{world}/text.yaml]"
    for name, devices in (("one", 1), ("two", 2)):
        trained_run(tmp_path / name, {"rex": vectors(0), "tom": vectors(1, count=2)})
        run = f"run={tmp_path / name / 'stable_diffusion/ti/0123456789'}"
        generate(compose("generate", *ask, run, f"devices={devices}"))
        own = [run, metrics, "accelerator=cpu", f"concepts.root={world}/subjects", f"devices={devices}"]
        cfg = composed("evaluate", *own)
        capfd.readouterr()
        evaluate(cfg)
        assert "2 score files, 4 columns computed" in capfd.readouterr().out
    assert len(list(tmp_path.rglob("two/**/*.png"))) == 2 * 2 * 3
    assert content(tmp_path / "two") == content(tmp_path / "one")
