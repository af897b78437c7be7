"""Whatever a process dies of, at whatever moment, the same command started again ends in the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dti_repro import benchmark as benchmark_module
from dti_repro import evaluate as evaluate_module
from dti_repro import export as export_module
from dti_repro import generate as generate_module
from dti_repro import interpolate as interpolate_module
from dti_repro import train as train_module
from dti_repro.artifacts.files import read_json, sha256
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.interpolate import interpolate
from dti_repro.training.train_missing import train
from tests.crash import Crash, Crasher, content, started, status_of
from tests.e2e import tiny_benchmark
from tests.e2e.trained import trained_run, vectors

Training = Callable[..., DictConfig]
forks = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used a GPU cannot be forked")


@contextmanager
def whole_before() -> Iterator[None]:
    """What is written in here is there before the task begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Crasher, "act", lambda *_: None)
        yield


def survives_every_crash(task: Callable[[Path], object], tmp_path: Path) -> list[str]:
    """Run `task(root)` once whole, then for each of its actions on files: die there, start again, compare."""
    counted = Crasher(tmp_path)
    with counted.installed():
        task(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    places = []
    for at in range(1, counted.count + 1):
        root = tmp_path / f"crash{at}"
        with Crasher(tmp_path, at).installed() as crasher, pytest.raises(Crash):
            task(root)
        places.append(crasher.died.replace(str(root), ""))
        task(root)
        found = content(root)
        assert found == expected, (places[-1], found.keys() ^ expected.keys())
    return places


def test_a_training_that_dies_at_any_write_ends_in_the_same_bytes(training: Training, tmp_path: Path) -> None:
    short = ["trainer.steps=2", "trainer.checkpoint_every=1", "trainer.snapshots=[1]"]
    places = survives_every_crash(lambda root: train(training(*short, f"runs={root}")), tmp_path)
    for name in ("config", "concept", "log", "last", "step_000001", "embedding"):
        assert any(name in place for place in places), name
    assert sum(place.startswith("save") for place in places) == 2


def test_a_generation_that_dies_at_any_write_ends_in_the_same_bytes(compose: Training, tmp_path: Path) -> None:
    asked = ["prompts=['a {}','the {}']", "steps=1", "batch=1"]

    def task(root: Path) -> None:
        if not root.exists():
            with whole_before():
                trained_run(root, {"rex": vectors(0)})
        generate(compose("generate", f"run={root}/stable_diffusion/ti/0123456789", *asked))

    places = survives_every_crash(task, tmp_path)
    assert len(places) == 9  # a manifest and two pictures, each opened, written and renamed


def test_an_evaluation_that_dies_at_any_write_ends_in_the_same_bytes(
    drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    def task(root: Path) -> None:
        with whole_before():
            cfg = drawn(root.name)
        evaluate(cfg)

    assert len(survives_every_crash(task, tmp_path)) == 6  # rows and their record, each opened, written and renamed


@pytest.mark.slow
def test_an_interpolation_that_dies_at_any_write_ends_in_the_same_bytes(compose: Training, tmp_path: Path) -> None:
    with whole_before():
        run = trained_run(tmp_path / "words", {"rex": vectors(0), "tom": vectors(1)})
    ends = [f"a={run / 'rex'}", f"b={run / 'tom'}"]

    def task(root: Path) -> None:
        interpolate(compose("interpolate", *ends, "steps=2", "sampling_steps=1", f"runs={root}"))

    assert len(survives_every_crash(task, tmp_path)) == 3 * (3 * 2 + 1)  # embedding, manifest, picture; the grid


def command(entry: Callable[[], None], arguments: list[str], kill_at: int | str = 0) -> int:
    """Run a real entry point in a process of its own, SIGKILLed at its n-th rename, or at that to a name with this end;
    its exit status."""

    def prepare() -> None:
        renames, rename = iter(range(1, 1000)), os.replace

        def killing(source: Path, target: Path) -> None:
            if next(renames) == kill_at or (isinstance(kill_at, str) and str(target).endswith(kill_at)):
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.replace = killing

    return status_of(started(entry, arguments, prepare))


ENTRIES: dict[
    str, tuple[Callable[[], None], list[int | str]]
] = {  # and where they are killed, one time after the other
    "train": (train_module.main, [2, "last.ckpt"]),
    "generate": (generate_module.main, [2]),
    "evaluate": (evaluate_module.main, [2]),
    "interpolate": (interpolate_module.main, [2]),
    "export": (export_module.main, [2]),
    "benchmark": (benchmark_module.main, [30, "out/tiny/provenance.json"]),
}


@forks
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "benchmark" else ()) for n in ENTRIES])
def test_a_killed_command_given_again_ends_in_the_same_bytes(
    name: str, world: Path, checkpoint: Path, subjects: Path, drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}"]
    short = ["threads=1", "progress=false"]
    entry, kills = ENTRIES[name]

    def arguments(root: Path) -> list[str]:
        run = root / "stable_diffusion" / "ti" / "0123456789"
        match name:
            case "train":
                return [*tiny_benchmark.EXTRA, *model, f"concepts.root={subjects}", f"runs={root}"]
            case "generate":
                trained_run(root, {"rex": vectors(0)})
                return [*model, *short, f"run={run}", "prompts=['a {}','the {}']", "steps=1"]
            case "evaluate":
                cfg = drawn(root.name)
                metrics = ",".join(cfg.metrics)
                return [f"run={run}", f"metrics=[{metrics}]", "accelerator=cpu", f"concepts.root={cfg.concepts.root}"]
            case "interpolate":
                ends = trained_run(root, {"rex": vectors(0), "tom": vectors(1)})
                more = [f"a={ends}/rex", f"b={ends}/tom", f"runs={root}", "steps=2", "sampling_steps=1"]
                return [*model, *short, *more]
            case "export":
                trained_run(root, {"rex": vectors(0), "tom": vectors(1)})
                return [f"run={run}", "to=a1111", f"out={root}/out"]
            case _:
                places = [f"runs={root}/runs", f"out={root}/out", f"searched={root}/searched.yaml"]
                return ["--config-dir", str(world / "conf"), "experiment=tiny", "accelerator=cpu", *places]

    assert command(entry, arguments(tmp_path / "whole")) == 0
    for kill_at in kills:
        assert command(entry, arguments(tmp_path / "killed"), kill_at) == -signal.SIGKILL
    assert command(entry, arguments(tmp_path / "killed")) == 0
    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    minutes = ("table.csv", "table.md", "report.html")  # have a column of them
    timed = {key for key in whole if key.startswith("out/") and key.split("/")[-1] in minutes}
    assert [key for key in whole if whole[key] != killed[key] and key not in timed] == []
    for record in tmp_path.glob("*/out/*/provenance.json"):
        assert read_json(record, "")["scores_sha256"] == sha256(record.with_name("scores.csv"))
