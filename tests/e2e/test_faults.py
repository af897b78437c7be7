"""Whatever a process dies of, the same command started again ends in the same bytes; whatever a person can mend is one
clear line."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig

from dti_repro import benchmark as benchmark_module
from dti_repro import evaluate as evaluate_module
from dti_repro import generate as generate_module
from dti_repro import train as train_module
from dti_repro.app import CONF
from dti_repro.errors import DivergedError, InputError
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.module import InversionModule
from dti_repro.results import lock
from dti_repro.results.files import write_json
from dti_repro.results.lock import BusyError, Owner, locked
from dti_repro.results.run import ConceptFolder
from dti_repro.train import run_folder, train
from tests.crash import Crash, Crasher, content, started, status_of, stop_after
from tests.e2e import test_benchmark
from tests.e2e.trained import trained_run, vectors

Training = Callable[..., DictConfig]
world = test_benchmark.world  # three subjects, two tiny evaluators and an experiment


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
    for name in ("config", "concept", "log", "last", "step=000001", "embedding"):
        assert any(name in place for place in places), name
    assert sum(place.startswith("save") for place in places) == 2


def test_a_generation_that_dies_at_any_write_ends_in_the_same_bytes(compose: Training, tmp_path: Path) -> None:
    asked = ["prompts=['a {}','the {}']", "steps=1", "batch=1"]

    def task(root: Path) -> None:
        if not root.exists():
            with pytest.MonkeyPatch.context() as patch:  # the run is there before, whole
                patch.setattr(Crasher, "act", lambda *_: None)
                trained_run(root, {"rex": vectors(0)})
        generate(compose("generate", f"run={root}/stable_diffusion/ti/0123456789", *asked))

    places = survives_every_crash(task, tmp_path)
    assert len(places) == 9  # a manifest and two pictures, each opened, written and renamed


@pytest.fixture
def drawn(compose: Training, tmp_path: Path, world: Path) -> Callable[[str], DictConfig]:
    """drawn(name) -> how to evaluate a run of that name, which has its pictures."""

    def draw(name: str) -> DictConfig:
        run = trained_run(tmp_path / name, {"rex": vectors(0)})
        generate(compose("generate", f"run={run}", f"prompts={world}/prompts.yaml", "steps=1"))
        return asked(name)

    def asked(name: str) -> DictConfig:
        run = tmp_path / name / "stable_diffusion" / "ti" / "0123456789"
        metrics = f"metrics=[{world}/image.yaml,{world}/text.yaml]"
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            own = [f"run={run}", metrics, "accelerator=cpu", f"concepts.root={world}/subjects"]
            return hydra.compose("evaluate", own)

    return lambda name: asked(name) if (tmp_path / name).exists() else draw(name)


def test_an_evaluation_that_dies_at_any_write_ends_in_the_same_bytes(
    drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    def task(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:  # the pictures are there before, whole
            patch.setattr(Crasher, "act", lambda *_: None)
            cfg = drawn(root.name)
        evaluate(cfg)

    assert len(survives_every_crash(task, tmp_path)) == 6  # rows and their record, each opened, written and renamed


def test_damaged_scores_are_computed_again_and_a_damaged_manifest_is_named(
    drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    cfg = drawn("a")
    evaluate(cfg)
    (rows,) = tmp_path.rglob("scores/*.csv")
    record, whole = rows.with_suffix(".json"), rows.read_bytes()
    for path in (rows, record):
        for length in (0, len(path.read_bytes()) // 2, path.read_bytes().rindex(b"\n", 0, -1) + 1):
            path.write_bytes(path.read_bytes()[:length])
            evaluate(cfg)
            assert rows.read_bytes() == whole
    (manifest,) = tmp_path.rglob("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"manifest\.json is damaged: delete its folder and generate again"):
        evaluate(cfg)


def test_a_full_disk_is_one_line_and_what_was_written_stays(training: Training, tmp_path: Path) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))  # a last.ckpt is larger, what comes before is not
    try:
        with pytest.raises(InputError, match=r"last\.ckpt cannot be written \(File too large\): see to its folder"):
            train(training("trainer.checkpoint_every=2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(train(training())[0].path) == content(whole.path)


def test_a_folder_that_cannot_be_written_is_one_line(training: Training, compose: Training, tmp_path: Path) -> None:
    """Root may write into a read-only folder, so a file stands in the way of each."""
    folder = run_folder(training("trainer.snapshots=[1]")).concept("ann")
    folder.path.mkdir(parents=True)
    (folder.path / "snapshots").write_text("")
    with pytest.raises(InputError, match=r"step=000001\.safetensors cannot be written"):
        train(training("trainer.snapshots=[1]"))
    run = trained_run(tmp_path / "drawn", {"rex": vectors(0)})
    (run / "rex" / "images").write_text("")
    with pytest.raises(InputError, match=r"images/\w+ cannot be written"):
        generate(compose("generate", f"run={run}", "prompts=['a {}']", "steps=1"))


def test_an_image_that_vanishes_in_mid_run_is_named_and_the_rest_is_kept(
    drawn: Callable[[str], DictConfig], training: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = drawn("a")
    (picture,) = tmp_path.rglob("p001_s0.png")
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(InputError, match=r"p001_s0\.png does not exist"):
        evaluate(cfg)
    picture.write_bytes(kept)
    evaluate(cfg)
    photo = tmp_path / "rex" / "0.png"
    photo.parent.mkdir()
    photo.write_bytes(kept)
    own = training()
    own.concepts = {"_target_": "dti_repro.concepts.folder.Folder", "path": str(photo.parent), "initializer": "cat"}
    monkeypatch.setattr("dti_repro.training.load_backbone", _vanish(photo))
    with pytest.raises(InputError, match=r"0\.png does not exist"):
        train(own)
    monkeypatch.undo()
    photo.write_bytes(kept)
    assert train(own)[0].is_done()


def _vanish(photo: Path) -> Callable[..., object]:
    from dti_repro.backbones.load import load_backbone

    def load(*arguments: object) -> object:
        photo.unlink()
        return load_backbone(*arguments)

    return load


def test_a_nan_in_the_loss_keeps_the_last_good_state_and_the_run_goes_on_from_it(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}", "concepts.names=[ann,bob]"))
    losses, calls = InversionModule._losses, iter(range(99))

    def broken_once(self: InversionModule, *a: object) -> tuple:
        factor = math.nan if next(calls) == 5 else 1
        return tuple(loss * factor for loss in losses(self, *a))

    monkeypatch.setattr(InversionModule, "_losses", broken_once)
    with pytest.raises(DivergedError, match=r"'bob' diverged at step 3: loss nan.* after step 2 is kept in"):
        train(training("concepts.names=[ann,bob]"))
    for ours, theirs in zip(train(training("concepts.names=[ann,bob]")), whole, strict=True):
        assert content(ours.path) == content(theirs.path)


def test_a_truncated_checkpoint_is_named_and_removed_it_starts_again(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    stop_after(monkeypatch, step=4)
    with pytest.raises(MemoryError):
        train(training("trainer.checkpoint_every=2"))
    monkeypatch.undo()
    folder = run_folder(training()).concept("ann")
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:700])
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read; remove it to start again"):
        train(training())
    folder.checkpoint.unlink()
    assert content(train(training())[0].path) == content(whole.path)


def test_a_clock_that_goes_backwards_changes_nothing(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    folder = train(training("trainer.checkpoint_every=2"))[0]
    monkeypatch.undo()
    assert content(folder.path) == content(whole.path)
    assert json.loads(folder.provenance.read_text())["seconds"] == 0


def hold(file: Path, text: str, age: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age, time.time() - age))


FOREIGN = "process 7 on elsewhere, job 12_3 start 0, since 2026-01-01T00:00:00Z"


def test_a_lock_of_another_machine_holds_while_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run" / "lock"
    hold(file, FOREIGN, age=5)
    with pytest.raises(BusyError, match=f"it is being done by {FOREIGN}"), locked(file, "it is being done"):
        pass
    for age in (3600, -3600):  # dead for an hour; or the clock was set back by one
        hold(file, FOREIGN, age)
        with locked(file, "it"):
            assert file.read_text().startswith(f"process {os.getpid()} on ")
        assert file.read_text() == ""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    for starts, free in (("0", False), ("1", True)):  # the same job, requeued, waits for nobody
        monkeypatch.setenv("SLURM_RESTART_COUNT", starts)
        hold(file, FOREIGN, age=5)
        if not free:
            with pytest.raises(BusyError), locked(file, "it"):
                pass
        else:
            with locked(file, "it"):
                assert "job 12_3 start 1, since 2" in file.read_text()


def test_a_heart_beats_while_a_lock_is_held_and_what_a_dead_owner_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    file, left = tmp_path / "lock", tmp_path / ".last.elsewhere.7.tmp.ckpt"
    left.write_text("half")
    with locked(file, "it"):
        assert not left.exists()
        os.utime(file, (0, 0))
        until = time.monotonic() + 20
        while file.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_without_the_kernels_locks_a_living_process_of_this_machine_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    file, host = tmp_path / "lock", Owner.here().host
    hold(file, f"process {os.getppid()} on {host}", age=0)
    with pytest.raises(BusyError), locked(file, "it"):
        pass
    hold(file, f"process {2**22 + 1} on {host}", age=0)  # above the largest process id: nobody
    with locked(file, "it"):
        pass


def test_a_second_driver_trains_what_is_free_and_says_who_has_the_rest(training: Training) -> None:
    cfg = training("concepts.names=[ann,bob,cid]")
    busy = run_folder(cfg).concept("bob")
    hold(busy.lock, FOREIGN, age=0)
    with pytest.raises(BusyError, match=f"concept 'bob' is being trained by {FOREIGN}"):
        train(cfg)
    assert [run_folder(cfg).concept(name).is_done() for name in ("ann", "bob", "cid")] == [True, False, True]


def test_pictures_and_scores_that_another_process_makes_are_not_made_twice(
    drawn: Callable[[str], DictConfig], compose: Training, tmp_path: Path
) -> None:
    cfg = drawn("a")
    (manifest,) = tmp_path.rglob("manifest.json")
    (manifest.parent / "p000_s0.png").rename(tmp_path / "moved.png")
    hold(manifest.parent / "lock", FOREIGN, age=0)
    again = ["prompts=" + str(cfg.concepts.root).replace("subjects", "prompts.yaml"), "steps=1"]
    with pytest.raises(BusyError, match="is being drawn by process 7"):
        generate(compose("generate", f"run={cfg.run}", *again))
    (tmp_path / "moved.png").rename(manifest.parent / "p000_s0.png")
    hold(manifest.parents[2] / "scores" / f"{manifest.parent.name}.lock", FOREIGN, age=0)
    with pytest.raises(BusyError, match="is being computed by process 7"):
        evaluate(cfg)


def command(entry: Callable[[], None], arguments: list[str], kill_at: int | None = None) -> int:
    """Run a real entry point in a process of its own, SIGKILLed at its n-th rename; its exit status."""

    def prepare() -> None:
        renames, rename = iter(range(1, 1000)), os.replace

        def killing(*paths: Path) -> None:
            if next(renames) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths)

        os.replace = killing

    return status_of(started(entry, arguments, prepare))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process cannot use its parent's threads
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used a GPU cannot be forked")
@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "benchmark"])
def test_a_killed_command_given_again_ends_in_the_same_bytes(
    name: str, world: Path, checkpoint: Path, subjects: Path, drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}"]
    entry = {
        "train": train_module.main,
        "generate": generate_module.main,
        "evaluate": evaluate_module.main,
        "benchmark": benchmark_module.main,
    }[name]

    def arguments(root: Path) -> list[str]:
        run = root / "stable_diffusion" / "ti" / "0123456789"
        match name:
            case "train":
                return [*test_benchmark.EXTRA, *model, f"concepts.root={subjects}", f"runs={root}"]
            case "generate":
                trained_run(root, {"rex": vectors(0)})
                return [*model, f"run={run}", "prompts=['a {}','the {}']", "steps=1", "threads=1", "progress=false"]
            case "evaluate":
                cfg = drawn(root.name)
                metrics = ",".join(cfg.metrics)
                return [f"run={run}", f"metrics=[{metrics}]", "accelerator=cpu", f"concepts.root={cfg.concepts.root}"]
            case _:
                places = [f"runs={root}/runs", f"out={root}/out", f"searched={root}/searched.yaml"]
                return ["--config-dir", str(world / "conf"), "experiment=tiny", "accelerator=cpu", *places]

    assert command(entry, arguments(tmp_path / "whole")) == 0
    assert command(entry, arguments(tmp_path / "killed"), kill_at=30 if name == "benchmark" else 2) == -signal.SIGKILL
    assert command(entry, arguments(tmp_path / "killed")) == 0
    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    minutes = ("table.csv", "table.md", "report.html")  # have a column of them
    timed = {key for key in whole if key.startswith("out/") and key.split("/")[-1] in minutes}
    assert [key for key in whole if whole[key] != killed[key] and key not in timed] == []


def test_what_is_written_before_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"a/b\.json cannot be written"):
        write_json(ConceptFolder(tmp_path / "a").path / "b.json", {})
