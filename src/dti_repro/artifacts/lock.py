"""Let one process at a time write a folder of results, on one machine or on storage that several machines share.

There are two locks. The kernel's lock ends with its process; on shared storage it works only if the file system
supports it. The file's content names the owner, and its modification time is a heartbeat: it shows whether a process of
another machine is alive. The filelock package is not used, because the heartbeat needs the open file anyway.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dti_repro.artifacts.files import refuse_links
from dti_repro.errors import InputError

T = TypeVar("T")
HEARTBEAT = 15.0  # seconds between two heartbeats
LEFTOVERS = ("", "snapshots/", "snapshots/*.adapter/", "embedding.adapter/", "previews/")
"""Where the owner of a concept's folder writes. Images have a lock of their own."""
STALE = 90.0  # seconds without a heartbeat after which an owner counts as dead


class BusyError(InputError):
    """Another process has the lock. The message names the process, its machine, its job and since when it has it."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process of a machine, and its Slurm job ("" if there is none)."""

    process: int
    host: str
    job: str = ""
    starts: int = 0  # how often the job was requeued before

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
        return cls(os.getpid(), socket.gethostname(), job, int(os.environ.get("SLURM_RESTART_COUNT") or 0))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner in the text of a lock file, None if there is none."""
        found = re.match(r"process (\d+) on ([^\s,]+)(?:, job (\S+) start (\d+))?", text)
        return cls(int(found[1]), found[2], found[3] or "", int(found[4] or 0)) if found else None

    def __str__(self) -> str:
        job = f", job {self.job} start {self.starts}" if self.job else ""
        return f"process {self.process} on {self.host}{job}"


@contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """Hold a lock file; make its folder. `message` begins the error: "concept 'dog' is being trained".

    A file with the name `lock` stands for its whole folder: what a killed owner was writing in LEFTOVERS is removed.
    The file itself stays, as removing it would race with the next owner. BusyError if another process holds the lock,
    InputError if the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            refuse_links(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            stack.callback(os.close, descriptor)
            _acquire(descriptor, file, message)
            if file.name == "lock":
                for place in LEFTOVERS:
                    for leftover in file.parent.glob(f"{place}.*.tmp*"):
                        leftover.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"run folder {file.parent} cannot be written: {error.strerror}") from error
        stack.callback(os.ftruncate, descriptor, 0)
        stack.enter_context(_heartbeat(descriptor))
        yield


@contextmanager
def locked_if_free(items: Iterable[tuple[T, Path, str]], busy: list[BusyError]) -> Iterator[list[T]]:
    """Lock what no other process has of (item, lock file, message), and yield these items. The errors of the others are
    added to `busy`."""
    with ExitStack() as stack:
        free = []
        for item, file, message in items:
            try:
                stack.enter_context(locked(file, message))
                free.append(item)
            except BusyError as error:
                busy.append(error)
        yield free


def _acquire(descriptor: int, file: Path, message: str) -> None:
    """Write this process as the owner. BusyError if another owner lives."""
    text = os.pread(descriptor, 400, 0).decode(errors="replace").strip()
    busy = BusyError(f"{message} by {text or 'another process'} ({file})")
    has_kernel_lock = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    except OSError:  # a file system without locks
        has_kernel_lock = False
    owner, here = Owner.parse(text), Owner.here()
    if owner is not None:
        requeued = owner.job == here.job != "" and owner.starts < here.starts
        if owner.host == here.host:
            runs = owner.process != here.process and Path(f"/proc/{owner.process}").exists()
            alive = runs and not has_kernel_lock
        else:
            alive = _seconds_since_heartbeat(descriptor, file.parent) < STALE
        if alive and not requeued:
            raise busy
    os.ftruncate(descriptor, 0)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.pwrite(descriptor, f"{here}, since {since}\n".encode(), 0)
    os.fsync(descriptor)  # other machines see who it is now, not with the first heartbeat


def _seconds_since_heartbeat(descriptor: int, folder: Path) -> float:
    """Ask the clock of the storage, not of this machine; either may have been set back."""
    with tempfile.TemporaryFile(dir=folder) as now:
        now.write(b".")
        now.flush()
        return abs(os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime)


@contextmanager
def _heartbeat(descriptor: int) -> Iterator[None]:
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(descriptor)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
