"""A sweep's jobs, wherever they run: how concepts are dealt to them, which GPU a process takes, what became of each.

A job writes one file of its own below the sweep's folder, so that nothing is written by two; the driver puts them
together at the end. No torch here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dti_repro.artifacts.files import atomic_write, read_json, write_json, writing
from dti_repro.artifacts.lock import BusyError, Owner
from dti_repro.config import build
from dti_repro.data.concept import ConceptSet
from dti_repro.errors import InputError
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import Failure

PER_JOB = "concepts.per_job"
MAX_STARTS = 30  # of one job of one sweep, requeues included: what dies so often will not get to its end
_gpu: int | None = None  # descriptor of the lock on the GPU that this process has taken


@dataclass
class JobRecord:
    """What became of a job: ran, was there (nothing was missing), busy (another process was at it), failed, or
    unfinished (running, or killed)."""

    overrides: list[str]
    host: str = ""
    slurm: str = ""  # the Slurm job's id
    starts: int = 0
    outcome: str = "unfinished"
    said: str = ""
    code: int = 0  # the exit code of what it said
    seconds: float = 0.0  # of its last start


def record_job(work: Callable[[], Any], failure_of: Callable[[Exception], Failure | None]) -> None:
    """Do a job's work, and write its record as it starts and as it ends. Work that returns 0 had nothing to compute.
    An error that has a Failure goes into the record and no further. A job that was started too often is not done."""
    config, here = HydraConfig.get(), Owner.here()
    file = Path(config.sweep.dir) / "jobs" / f"{config.job.num:04d}.json"
    starts = _read_record(file).starts + 1 if file.is_file() else 1
    record = JobRecord(typed_overrides(config), here.host, here.job, starts)
    write_json(file, asdict(record))
    began = time.monotonic()
    try:
        if starts > MAX_STARTS:
            raise InputError(
                f"this job was started {starts} times and never got to its end: remove {file} to start it again"
            )
        record.outcome = "was there" if work() == 0 else "ran"
    except Exception as error:
        failure = failure_of(error)
        record.outcome = "busy" if isinstance(error, BusyError) else "failed"
        record.said = failure.line if failure else (str(error).splitlines() or [type(error).__name__])[0]
        record.code = failure.code if failure else 1
        if failure is None:
            raise
    except BaseException:
        record.outcome = "unfinished"  # told to go back into the queue
        raise
    finally:
        record.seconds = round(time.monotonic() - began, 1)
        write_json(file, asdict(record))


def typed_overrides(hydra: DictConfig) -> list[str]:
    """As they were typed: what is an interpolation in them belongs to another node."""
    return OmegaConf.to_container(hydra.overrides.task, resolve=False)


def _read_record(file: Path) -> JobRecord:
    """The record of a job; an empty one that says so if the file is damaged."""
    try:
        record = JobRecord(**read_json(file, "remove it"))
        if not (isinstance(record.starts, int) and isinstance(record.said, str) and isinstance(record.code, int)):
            raise TypeError
    except (TypeError, InputError):
        return JobRecord([], outcome="unknown", said=f"{file} is damaged")
    return record


def check_launcher(commands: Sequence[CommandLine]) -> None:
    """InputError for a launcher without a sweep, and for a sweep on Slurm where there is none."""
    for command in commands:
        launcher = command.value("hydra/launcher") or ""
        if launcher not in ("", "basic") and not command.multirun and not command.flags:
            raise InputError(f"hydra/launcher={launcher} sends the jobs of a sweep away: add -m")
        if command.multirun and not command.flags and launcher.endswith("slurm") and shutil.which("sbatch") is None:
            raise InputError(f"hydra/launcher={launcher}: there is no sbatch here; start it where a cluster's is")


def sweep_folder(commands: Sequence[CommandLine]) -> Path | None:
    """Where the records of these commands' sweeps lie; None if they only are single runs."""
    sweep = next((command for command in commands if command.multirun), None)
    if sweep is None:
        return None
    if given := sweep.value("hydra.sweep.dir"):
        return Path(_resolved("hydra.sweep.dir", given))
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(_resolved("runs", sweep.value("runs") or "runs")) / ".multirun" / f"{now}_{os.getpid()}"


def _resolved(key: str, value: str) -> str:
    """A path as Hydra takes it: of the environment, perhaps."""
    try:
        return OmegaConf.to_container(OmegaConf.create({key: value}), resolve=True)[key]
    except OmegaConfBaseException as error:
        raise InputError(f"{key}={value}: {str(error).splitlines()[0]}") from error


def each_in_its_folder(commands: Sequence[CommandLine], folder: Path | None) -> list[CommandLine]:
    """The commands with hydra.sweep.dir: the folder, which is made, or where there are several sweeps 1, 2, ... in it.
    InputError if it cannot be written, before anything is sent away."""
    if folder is not None and not any(command.flags for command in commands):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    several = sum(command.multirun for command in commands) > 1
    placed = []
    for number, command in enumerate(commands, start=1):
        place = folder / str(number) if several and folder is not None else folder
        own = command.without("hydra.sweep.dir")
        quoted = str(place).replace("'", "\\'")
        placed.append(own.adding(f"hydra.sweep.dir='{quoted}'") if command.multirun else own)
    return placed


def wait_for_the_others(folder: Path) -> None:
    """Wait until Slurm has nothing left of a sweep. submitit's launcher goes by the jobs' order and leaves at the first
    that was killed, with the others still at work."""
    from submitit import SlurmJob

    calls = sorted(folder.rglob("slurm/*/*_submitted.pkl"))
    for job in [SlurmJob(call.parent, call.parent.name, [0]) for call in calls]:
        job.wait()


def first_failure(folder: Path) -> Failure | None:
    """What the first job said that could not do its work."""
    records = _records(folder).values()
    return next((Failure(record.said, record.code) for record in records if record.code), None)


def _records(folder: Path) -> dict[str, JobRecord]:
    """Of all jobs that began, by number."""
    return {_number(file, folder): _read_record(file) for file in sorted(folder.rglob("jobs/*.json"))}


def summarise(folder: Path) -> str:
    """Write <folder>/summary.txt from the jobs' records: what ran, was there, failed, where and how long. "" if no job
    began. Errors of this folder are said in the text."""
    records = _records(folder)
    if not records:
        return ""
    counts = Counter(record.outcome for record in records.values())
    lines = [f"{len(records)} jobs: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))}"]
    for number, r in records.items():
        where = f"{r.host}{f' job {r.slurm}' if r.slurm else ''}{f' start {r.starts}' if r.starts > 1 else ''}"
        line = f"#{number} {r.outcome:10} {r.seconds:8.1f} s  {where}  {' '.join(r.overrides)}"
        lines.append(f"{line}: {r.said}" if r.said else line)
    text = "\n".join([*lines, f"(this summary: {folder / 'summary.txt'})"])
    try:
        with atomic_write(folder / "summary.txt") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    except InputError as error:
        return f"{text}\n{error}"
    return text


def _number(record: Path, folder: Path) -> str:
    """0 of one sweep's first job; 2/0 of the first one of the second of several."""
    return "/".join([*record.relative_to(folder).parts[:-2], record.stem.lstrip("0") or "0"])


def deal_concepts(line: CommandLine) -> CommandLine:
    """`concepts.per_job=2` as a sweep over the chosen concepts, two in each job. InputError outside of a sweep."""
    count = line.value(PER_JOB)
    if count is None:
        return line
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"{PER_JOB}={count}: a whole number above 0 is needed")
    if not line.multirun:
        raise InputError(f"{PER_JOB}={count} deals concepts to the jobs of a sweep: add -m")
    line = line.without(PER_JOB)
    cfg = line.compose([override for override in line.overrides if override.lstrip("+").startswith("concepts")])
    names = [concept.name for concept in build(cfg.concepts, ConceptSet).load()]
    packs = [names[k : k + int(count)] for k in range(0, len(names), int(count))]
    return line.without("concepts.names").adding(f"concepts.names={as_choices(packs)}")


def as_choices(lists: Sequence[Sequence[str]]) -> str:
    """Lists of names as a sweep's values, `[a,b],[c]`; quoted where a bare name would be read as something else."""
    plain = re.compile(r"(?!(null|true|false|inf|nan)$)[a-z_][\w-]*", re.IGNORECASE)
    return ",".join(
        f"[{','.join(name if plain.fullmatch(name) else json.dumps(name) for name in names)}]" for names in lists
    )


def take_gpu(devices: Path = Path("/dev")) -> None:
    """Let this process see one GPU only, one that no other process of a sweep has taken; if there are fewer GPUs than
    processes, those without one see all. Before torch is imported; kept until the process ends."""
    global _gpu
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible.split(",") if visible else [p.name[6:] for p in sorted(devices.glob("nvidia[0-9]*"))]
    if _gpu is not None or len(found) < 2 or visible == "":
        return
    for name in found:
        lock = Path(tempfile.gettempdir()) / f"dti-repro-{os.getuid()}-gpu-{name}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        _gpu = descriptor
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        return
