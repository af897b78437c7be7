"""One process per folder of results, on one machine or on storage that many machines share.

Two safeguards. The kernel's lock, which a dying process drops by itself; on shared storage it reaches as far as the
file system carries it. And the owner's name in the file, with a heartbeat (the file's modification time): where the
kernel cannot say whether a process on another machine lives, a heart that stopped does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dti_repro.errors import InputError

BEAT = 15.0  # seconds between two heartbeats
STALE = 90.0  # seconds after which a heart that does not beat is dead


class BusyError(InputError):
    """Another process is at it. The message names the process, its machine, its job and since when."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process on a machine, and the Slurm job ("" outside of one) that it belongs to."""

    process: int
    host: str
    job: str = ""
    starts: int = 0  # how often the job was requeued before
    since: str = ""

    @classmethod
    def here(cls) -> Owner:
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
        starts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(os.getpid(), socket.gethostname(), job, starts, since)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        form = r"process (\d+) on ([^\s,]+)(?:, job (\S+) start (\d+))?(?:, since (\S+))?"
        found = re.match(form, text)
        return cls(int(found[1]), found[2], found[3] or "", int(found[4] or 0), found[5] or "") if found else None

    def __str__(self) -> str:
        job = f", job {self.job} start {self.starts}" if self.job else ""
        return f"process {self.process} on {self.host}{job}, since {self.since}"


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file, whose folder is made. BusyError if another process holds it, InputError if it cannot be
    written. `what` begins the message: "concept 'dog' is being trained".

    A file called `lock` stands for its whole folder: what a killed owner was writing there is removed. The file
    itself stays, as removing it would race with the next owner.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _not_written(file, error) from error
    try:
        try:
            _take(descriptor, file, what)
            if file.name == "lock":
                for left in (*file.parent.glob(".*.tmp*"), *file.parent.glob("snapshots/.*.tmp*")):
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(file, error) from error
        try:
            with _beating(descriptor):
                yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _not_written(file: Path, error: OSError) -> InputError:
    if error.errno == errno.ELOOP:
        return InputError(f"{file} is a symbolic link, and nothing is written through one: remove it")
    return InputError(f"run folder {file.parent} cannot be written: {error.strerror}")


def _take(descriptor: int, file: Path, what: str) -> None:
    """Become the owner, or BusyError."""
    text = os.pread(descriptor, 400, 0).decode(errors="replace").strip()
    before, here = Owner.parse(text), Owner.here()
    busy = BusyError(f"{what} by {text or 'another process'} ({file})")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kernel = True
    except BlockingIOError as error:
        raise busy from error
    except OSError:  # a file system without locks
        kernel = False
    requeued = before is not None and before.job == here.job != "" and before.starts < here.starts
    if before is not None and not requeued and _lives(before, here, descriptor, file.parent, kernel):
        raise busy
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{here}\n".encode(), 0)


def _lives(owner: Owner, here: Owner, descriptor: int, folder: Path, kernel: bool) -> bool:
    """Whether the process that wrote its name is alive, the kernel's lock being ours or not to be had."""
    if owner.host == here.host:
        return not kernel and owner.process != here.process and _runs(owner.process)
    with tempfile.TemporaryFile(dir=folder) as now:  # the storage's clock, not ours; either may have been set back
        now.write(b".")
        now.flush()
        return abs(os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime) < STALE


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _beating(descriptor: int) -> Iterator[None]:
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT):
            with suppress(OSError):
                os.utime(descriptor)

    heart = threading.Thread(target=beat, name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stopped.set()
        heart.join()
