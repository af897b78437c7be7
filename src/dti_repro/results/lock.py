"""One process per concept."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dti_repro.errors import InputError
from dti_repro.results.run import ConceptFolder


@contextmanager
def locked(folder: ConceptFolder) -> Iterator[None]:
    """Hold a concept's folder, which is made. InputError if another process holds it or the folder cannot be
    written.

    The kernel drops the lock of a process that dies; the file stays, as removing it would race with the next
    owner.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"run folder {folder.path} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise InputError(f"concept '{folder.name}' is being trained by {owner} ({folder.lock})") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
