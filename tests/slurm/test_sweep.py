"""A sweep on a real Slurm, with everything done to its jobs that a cluster can do, ends in the bytes of one that ran
here, job after job.

`make slurm-test` brings a Slurm of one node up for it. Any other cluster is left alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dti_repro.artifacts.files import read_json
from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.launch.sweep import JobRecord
from tests.crash import content

CONF = Path(os.environ.get("SLURM_CONF", "/nonexistent"))
pytestmark = [
    pytest.mark.skipif(
        not (CONF.is_file() and "ClusterName=dti-repro-test" in CONF.read_text()),
        reason="no Slurm of one node is up: make slurm-test",
    ),
    pytest.mark.skipif(not PACKAGED.is_dir(), reason="the toybox's weights are not there"),
]
PATIENCE = 3600.0  # seconds for a sweep, on a machine that may have other things to do
CONCEPTS = "concepts.names=[bird,bird2,car,car2]"
TRAINER = ["trainer.steps=16", "trainer.batch=1", "trainer.checkpoint_every=2", "trainer.threads=1"]
LOCKS = "toybox/dti/*/*/*/lock"
QUIET = ["trainer.progress=false", "trainer.accelerator=cpu"]
PROMPTS = "prompts=['a {}','a {} on the beach']"
MAGNITUDES, KAPPAS = ("mean", "5.0"), ("0", "1e-4", "5e-4")
SWEPT = [f"method.magnitude={','.join(MAGNITUDES)}", f"method.prior.kappa={','.join(KAPPAS)}"]
TRAIN = ["train", "-m", "method=dti", *SWEPT, CONCEPTS, "concepts.per_job=2", *TRAINER, *QUIET]
SLURM = [
    "hydra/launcher=slurm",
    "hydra.launcher.partition=main",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=3",
    "hydra.launcher.timeout_min=10",  # of so little, submitit takes each signal for the time limit's
    "hydra.launcher.signal_delay_s=55",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", f"dti_repro.{arguments[0]}", *arguments[1:]]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE)


def slurm(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def owner_of(lock: Path) -> re.Match[str] | None:
    """Process and Slurm job, as 12_3, of whoever holds it."""
    return re.search(r"process (\d+) on .*job (\S+) start", lock.read_text())


def at_work(runs: Path) -> dict[str, tuple[int, Path]]:
    """Slurm job -> process and lock, of those in the midst of a training: they hold it and wrote a checkpoint."""
    running = slurm("squeue", "-h", "-t", "RUNNING", "-o", "%i").split()
    held = {lock: owner_of(lock) for lock in runs.glob(LOCKS) if (lock.parent / "last.ckpt").is_file()}
    return {owner[2]: (int(owner[1]), lock) for lock, owner in held.items() if owner and owner[2] in running}


def records(runs: Path) -> dict[str, JobRecord]:
    """Slurm job -> its record, of the sweep begun last."""
    folder = max(runs.glob(".multirun/*"), key=lambda path: path.stat().st_mtime)
    found = [JobRecord(**read_json(path, "")) for path in sorted(folder.rglob("jobs/*.json"))]
    return {record.slurm: record for record in found}


@contextmanager
def driver(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Stopped:
    """A job in the midst of a training, whose process is stopped: what comes then finds it where it is."""

    job: str
    process: int
    concept: Path  # the folder, with a last.ckpt and without an embedding

    def resumed_from(self) -> int:
        """The step that whoever finished this training went on from."""
        return read_json(self.concept / "provenance.json", "")["resumed_from_step"]


def stop_one(runs: Path, spared: Collection[Stopped]) -> Stopped:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for job, (process, lock) in at_work(runs).items():
            if job not in [each.job for each in spared]:
                os.kill(process, signal.SIGSTOP)
                if not (lock.parent / "embedding.safetensors").is_file():
                    return Stopped(job, process, lock.parent)
                os.kill(process, signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError("waited in vain for a job at work")


def hold(stopped: Stopped) -> None:
    """Until Slurm has killed it: it wakes a stopped process some seconds before, in which it could get to its end."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(stopped.process, signal.SIGSTOP)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain for Slurm to kill a job")


def disturb(runs: Path) -> dict[str, Stopped]:
    """Requeue a job, cancel one, preempt one and let one hang into its time limit: last, as it takes minutes, in which
    all others end."""
    done: dict[str, Stopped] = {}
    done["requeued"] = stop_one(runs, done.values())
    slurm("scontrol", "requeue", done["requeued"].job)
    hold(done["requeued"])
    done["cancelled"] = stop_one(runs, done.values())
    slurm("scancel", done["cancelled"].job)
    hold(done["cancelled"])
    done["preempted"] = stop_one(runs, done.values())
    slurm("sbatch", "--partition=high", "--ntasks=1", f"--cpus-per-task={os.cpu_count()}", "--wrap=true", "-o/dev/null")
    hold(done["preempted"])
    done["timed out"] = stop_one(runs, done.values())
    hang_into_the_time_limit(done["timed out"].job, runs)
    return done


def hang_into_the_time_limit(job: str, runs: Path) -> None:
    """Lower the limit of a stopped job; Slurm wakes it to announce the limit, and it answers."""
    elapsed = slurm("squeue", "-h", "-j", job, "-o", "%M").strip().split(":")
    slurm("scontrol", "update", f"jobid={job}", f"timelimit={int(elapsed[-2]) + 2}")
    logs = max(runs.glob(".multirun/*/slurm"), key=lambda path: path.stat().st_mtime)
    end = time.monotonic() + PATIENCE
    while not any("is timed-out" in log.read_text() for log in logs.rglob(f"{job}_0_log.*")):
        assert time.monotonic() < end, "waited in vain for the job's answer"
        time.sleep(0.3)
    slurm("scontrol", "update", f"jobid={job}", "timelimit=10")


def test_a_disturbed_sweep_ends_in_the_bytes_of_a_serial_one(tmp_path: Path) -> None:
    here, there = tmp_path / "serial", tmp_path / "slurm"
    with driver(*TRAIN, f"runs={here}") as serial, driver(*TRAIN, *SLURM, f"runs={there}") as process:
        done = disturb(there)
        output, errors = process.communicate(timeout=PATIENCE)
        print(done, output, errors, sep="\n")
        said, problems = serial.communicate(timeout=PATIENCE)
    assert serial.returncode == 0, problems
    assert "12 jobs: 12 ran" in said
    of = records(there)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: a job did not get to its end: ")
    assert "12 jobs: " in output
    # Who is preempted beside the stopped one, with its work just done, is started again and finds it there.
    assert {job for job, record in of.items() if record.outcome not in ("ran", "finished before")} == {
        done["cancelled"].job
    }
    assert of[done["cancelled"].job].outcome == "unfinished"
    assert all(of[done[what].job].starts > 1 for what in ("requeued", "timed out", "preempted"))

    again = run(*TRAIN, *SLURM, f"runs={there}")
    print(again.stdout, again.stderr)
    assert again.returncode == 0
    assert "12 jobs: 11 finished before, 1 ran" in again.stdout
    assert all(stopped.resumed_from() > 0 for stopped in done.values())

    write_experiment(tmp_path / "conf" / "experiment" / "grid.yaml")
    table = ["benchmark", f"--config-dir={tmp_path / 'conf'}", "experiment=grid", "accelerator=cpu"]
    places = {runs: [f"runs={runs}", f"out={runs / 'out'}"] for runs in (here, there)}
    with driver(*table, *places[here]) as serial, driver(*table, *SLURM, *places[there]) as process:
        for each in (serial, process):
            said, problems = each.communicate(timeout=PATIENCE)
            print(said, problems, sep="\n")
            assert each.returncode == 0
    assert "6 jobs: 6 ran" in said
    expected, found = relevant(here), relevant(there)
    assert sum(name.endswith(".safetensors") for name in expected) == 24
    assert sum(name.endswith(".png") for name in expected) == 24 * 2 + 2  # and the front and the grid
    assert sum(name.endswith(".csv") and "/scores/" in name for name in expected) == 24
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def relevant(runs: Path) -> dict[str, bytes]:
    """All that is the same wherever it was made; the table has a column of minutes."""
    table = ("out/grid/table.csv", "out/grid/table.md", "out/grid/report.html")
    return {
        name: data for name, data in content(runs).items() if not name.startswith(".multirun/") and name not in table
    }


def write_experiment(file: Path) -> None:
    rows = [
        {"name": f"m{m}_k{k}", "overrides": ["method=dti", f"method.magnitude={m}", f"method.prior.kappa={k}"]}
        for m in MAGNITUDES
        for k in KAPPAS
    ]
    experiment = {
        "title": "Grid",
        "setup": ["backbone=toybox", "concepts=toybox", CONCEPTS],
        "train": [*TRAINER, *QUIET],
        "generate": [
            "prompts=['a {}','a {} on the beach']",
            "steps=2",
            "threads=1",
            "progress=false",
            "accelerator=cpu",
        ],
        "metrics": {"toybox_image": "image", "toybox_attribute": "attribute"},
        "image": "toybox_image",
        "text": ["toybox_attribute"],
        "rows": rows,
    }
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(experiment))
