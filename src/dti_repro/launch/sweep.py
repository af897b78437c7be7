"""The jobs of a sweep: where their records lie, which GPU a process takes, what became of each job.

A job writes one file of its own below the sweep's folder, so that no two processes write the same file. At the end the
process that started the sweep summarizes them. No torch here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from pydantic.dataclasses import dataclass

from dti_repro.artifacts.files import read_json, write_file, write_json, writing
from dti_repro.artifacts.lock import BusyError, Owner
from dti_repro.errors import InputError
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import Failure

MAX_STARTS = 30  # of one job, requeues included: a job that dies so often will not finish
_gpu: FileLock | None = None  # the lock on the GPU that this process has taken


@dataclass
class JobRecord:
    """The result of a job. outcome: ran, finished before (nothing was missing), busy (another process does it), failed,
    or unfinished (it runs, or was killed)."""

    overrides: list[str]
    host: str = ""
    slurm: str = ""  # the id of the Slurm job
    starts: int = 0
    outcome: str = "unfinished"
    error: str = ""
    code: int = 0  # the exit code of the error
    seconds: float = 0.0  # of its last start


def record_job(work: Callable[[], Any], failure_of: Callable[[Exception], Failure | None]) -> None:
    """Run a job, and write its record at its start and at its end. Work that returns 0 had nothing to compute. An error
    that has a Failure is recorded and not raised. A job that was started more than MAX_STARTS times is not run."""
    config, owner = HydraConfig.get(), Owner.here()
    file = Path(config.sweep.dir) / "jobs" / f"{config.job.num:04d}.json"
    before = _read_record(file) if file.is_file() else JobRecord([])
    starts = before.starts + 1 if before.outcome == "unfinished" else 1
    record = JobRecord(typed_overrides(), owner.host, owner.job, starts)
    write_json(file, asdict(record))
    began = time.monotonic()
    try:
        if starts > MAX_STARTS:
            raise InputError(f"this job was started {starts} times and never finished: remove {file} to start it again")
        record.outcome = "finished before" if work() == 0 else "ran"
    except Exception as error:
        failure = failure_of(error)
        record.outcome = "busy" if isinstance(error, BusyError) else "failed"
        record.error = failure.line if failure else (str(error).splitlines() or [type(error).__name__])[0]
        record.code = failure.code if failure else 1
        if failure is None:
            raise
    finally:
        record.seconds = round(time.monotonic() - began, 1)
        write_json(file, asdict(record))


def typed_overrides() -> list[str]:
    """Return the overrides of the running command as they were typed; their interpolations belong to another node."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


def _read_record(file: Path) -> JobRecord:
    """Return the record of a job; an empty one that says so if the file is damaged."""
    try:
        return JobRecord(**read_json(file, "remove it"))
    except (TypeError, ValueError):
        return JobRecord([], outcome="unknown", error=f"{file} is damaged")


def check_launcher(commands: Sequence[CommandLine]) -> None:
    """Raise InputError for a launcher without a sweep, and for a Slurm sweep on a machine without Slurm."""
    for command in commands:
        launcher = command.value("hydra/launcher") or "basic"
        if launcher == "basic" or command.flags:
            continue
        if not command.multirun:
            raise InputError(f"hydra/launcher={launcher} starts the jobs of a sweep: add -m")
        if launcher.endswith("slurm") and shutil.which("sbatch") is None:
            raise InputError(f"hydra/launcher={launcher}: sbatch is not found; start it on a cluster's login node")


def set_sweep_folders(commands: Sequence[CommandLine]) -> tuple[list[CommandLine], Path | None]:
    """Return the commands with hydra.sweep.dir set, and the folder of all sweeps, or None if there is no sweep. Several
    sweeps get 1, 2, ... in it. Raise InputError, before a job is started, if the folder cannot be written."""
    sweeps = [command for command in commands if command.multirun]
    if not sweeps:
        return list(commands), None
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    default = f"{sweeps[0].value('runs') or 'runs'}/.multirun/{now}_{os.getpid()}"
    given = OmegaConf.create([sweeps[0].value("hydra.sweep.dir") or default])
    folder = Path(given[0])  # with ${oc.env:...} resolved
    if not any(command.flags for command in commands):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            for file, record in _records(folder).items():
                if record.outcome != "unfinished":  # of an earlier command in the same folder
                    file.unlink()
    placed = []
    for number, command in enumerate(commands, start=1):
        path = str(folder / str(number) if len(sweeps) > 1 else folder).replace("'", "\\'")
        moved = command.without("hydra.sweep.dir")
        sweep = (f"hydra.sweep.dir='{path}'", "hydra.sweep.subdir=.")
        placed.append(moved.adding(*sweep) if command.multirun else moved)
    return placed, folder


def wait_for_slurm(folder: Path) -> None:
    """Wait until Slurm has no job of the sweep left. submitit's launcher stops at the first job that was killed, while
    others still run."""
    from submitit import SlurmJob

    for file in sorted(folder.rglob("slurm/*/*_submitted.pkl")):
        SlurmJob(file.parent, file.parent.name, [0]).wait()


def first_failure(folder: Path) -> Failure | None:
    """Return the failure of the first job that has one."""
    return next((Failure(record.error, record.code) for record in _records(folder).values() if record.code), None)


def _records(folder: Path) -> dict[Path, JobRecord]:
    """Return file -> record of the jobs that began, of a sweep or of several numbered sweeps: other files are not
    ours."""
    files = (*folder.glob("jobs/*.json"), *folder.glob("[0-9]*/jobs/*.json"))
    return {file: _read_record(file) for file in sorted(files) if re.fullmatch(r"\d{4,}", file.stem)}


def summarise(folder: Path) -> str:
    """Write <folder>/summary.txt, a line for each job, and return its text; an empty text if no job began. An error of
    writing it is part of the text."""
    records = _records(folder)
    if not records:
        return ""
    counts = Counter(record.outcome for record in records.values())
    lines = [f"{len(records)} jobs: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))}"]
    for file, r in records.items():
        number = "/".join([*file.relative_to(folder).parts[:-2], str(int(file.stem))])  # 0; 2/0 in the second sweep
        host = f"{r.host}{f' job {r.slurm}' if r.slurm else ''}{f' start {r.starts}' if r.starts > 1 else ''}"
        line = f"#{number} {r.outcome:10} {r.seconds:8.1f} s  {host}  {' '.join(r.overrides)}"
        lines.append(f"{line}: {r.error}" if r.error else line)
    text = "\n".join([*lines, f"(this summary: {folder / 'summary.txt'})"])
    try:
        write_file(folder / "summary.txt", text + "\n")
    except InputError as error:
        return f"{text}\n{error}"
    return text


def as_choices(lists: Sequence[Sequence[str]]) -> str:
    """Return lists of names as the values of a sweep, `[a,b],[c]`; a name that Hydra would read as something else is
    quoted."""
    plain = re.compile(r"(?!(null|true|false|inf|nan)$)[a-z_][\w-]*", re.IGNORECASE)
    return ",".join(
        f"[{','.join(name if plain.fullmatch(name) else json.dumps(name) for name in names)}]" for names in lists
    )


def take_gpu(devices: Path = Path("/dev")) -> None:
    """Let this process see one GPU only, which no other process of a sweep has taken. With fewer GPUs than processes,
    the others see all. To be called before torch is imported; the GPU is kept until the process ends."""
    global _gpu
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA counts from 0 what a container has, whatever the numbers of the device files are.
    found = visible.split(",") if visible else [str(k) for k, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    if _gpu is not None or len(found) < 2 or visible == "":
        return
    for name in found:
        lock = FileLock(Path(tempfile.gettempdir()) / f"dti-repro-{os.getuid()}-gpu-{name}.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _gpu = lock
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        return
