"""Two processes never do the same work: who has it is known by its lock, and a dead owner's lock is nobody's."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro.artifacts import lock
from dti_repro.artifacts.lock import BusyError, Owner, locked
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]


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
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
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
