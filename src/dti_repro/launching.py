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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from dti_repro.command_line import CommandLine
from dti_repro.concepts.concept import ConceptSet
from dti_repro.configured import build
from dti_repro.errors import InputError
from dti_repro.results.files import atomic_write, read_json, write_json, writing
from dti_repro.results.lock import BusyError, Owner

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
    seconds: float = 0.0  # of its last start


@contextmanager
def recorded() -> Iterator[JobRecord]:
    """Write this job's record as it starts and as it ends. The block may set its outcome. InputError if it has been
    started too often."""
    config, here = HydraConfig.get(), Owner.here()
    file = Path(config.sweep.dir) / "jobs" / f"{config.job.num:04d}.json"
    starts = read_json(file, "remove it").get("starts", 0) + 1 if file.is_file() else 1
    record = JobRecord(list(config.overrides.task), here.host, here.job, starts)
    write_json(file, asdict(record))
    began = time.monotonic()
    try:
        if starts > MAX_STARTS:
            raise InputError(f"this job was started {starts} times and never got to its end: see {file.parent.parent}")
        record.outcome = "ran"
        yield record
    except Exception as error:
        record.outcome = "busy" if isinstance(error, BusyError) else "failed"
        record.said = (str(error).splitlines() or [type(error).__name__])[0]
        raise
    except BaseException:
        record.outcome = "unfinished"  # told to go back into the queue
        raise
    finally:
        record.seconds = round(time.monotonic() - began, 1)
        write_json(file, asdict(record))


def check_launcher(commands: Sequence[CommandLine]) -> None:
    """InputError for a sweep on Slurm where there is none."""
    for command in commands:
        launcher = command.value("hydra/launcher") or ""
        if command.multirun and not command.flags and launcher.endswith("slurm") and shutil.which("sbatch") is None:
            raise InputError(f"hydra/launcher={launcher}: there is no sbatch here; start it where a cluster's is")


def sweep_folder(commands: Sequence[CommandLine]) -> Path | None:
    """Where the records of these commands' sweeps lie; None if they only are single runs."""
    sweep = next((command for command in commands if command.multirun), None)
    if sweep is None:
        return None
    if given := sweep.value("hydra.sweep.dir"):
        return Path(given)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(sweep.value("runs") or "runs") / ".multirun" / f"{now}_{os.getpid()}"


def each_in_its_folder(commands: Sequence[CommandLine], folder: Path | None) -> list[CommandLine]:
    """The commands with hydra.sweep.dir: the folder, which is made, or where there are several sweeps 1, 2, ... in it.
    InputError if it cannot be written, before anything is sent away."""
    if folder is not None and not any(command.flags for command in commands):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    several = sum(command.multirun for command in commands) > 1
    placed = []
    for number, command in enumerate(commands, start=1):
        place = folder / str(number) if several and folder is not None else folder
        own = command.without("hydra.sweep.dir")
        placed.append(own.adding(f"hydra.sweep.dir='{place}'") if command.multirun else own)
    return placed


def wait_for_the_others(folder: Path) -> None:
    """Wait until Slurm has nothing left of a sweep. submitit's launcher goes by the jobs' order and leaves at the first
    that was killed, with the others still at work."""
    from submitit import SlurmJob

    calls = sorted(folder.rglob("slurm/*/*_submitted.pkl"))
    for job in [SlurmJob(call.parent, call.parent.name, [0]) for call in calls]:
        job.wait()


def summarise(folder: Path) -> str:
    """Write <folder>/summary.txt from the jobs' records: what ran, was there, failed, where and how long. "" if no job
    began."""
    files = sorted(folder.rglob("jobs/*.json"))
    if not files:
        return ""
    records = {_number(file, folder): JobRecord(**read_json(file, "remove it")) for file in files}
    counts = Counter(record.outcome for record in records.values())
    lines = [f"{len(records)} jobs: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))}"]
    for number, r in records.items():
        where = f"{r.host}{f' job {r.slurm}' if r.slurm else ''}{f' start {r.starts}' if r.starts > 1 else ''}"
        line = f"#{number} {r.outcome:10} {r.seconds:8.1f} s  {where}  {' '.join(r.overrides)}"
        lines.append(f"{line}: {r.said}" if r.said else line)
    text = "\n".join([*lines, f"(this summary: {folder / 'summary.txt'})"])
    with atomic_write(folder / "summary.txt") as temporary:
        temporary.write_text(text + "\n")
    return text


def _number(record: Path, folder: Path) -> str:
    """0 of one sweep's first job; 2/0 of the first one of the second of several."""
    return "/".join([*record.relative_to(folder).parts[:-2], str(int(record.stem))])


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
