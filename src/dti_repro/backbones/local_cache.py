"""Checkpoints in another layout than the user's, made once and kept beside the cache of the Hugging Face Hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dti_repro.artifacts.files import writing

MAKING = ".making-"
OLD = 86400.0  # seconds after which a folder that is being made belongs to a process that died


def cache_folder(kind: str, digest: str) -> Path:
    """Return where the folder of this digest lies, or will lie. HF_HOME says where the cache is."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "dti-repro" / kind / digest


def create_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder, after make(temporary) has filled it if it does not exist. Whoever is first wins. A process
    that dies leaves the folder absent; what it wrote is removed a day later. InputError if it cannot be written."""
    if folder.is_dir():
        return folder
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=MAKING))
        now = temporary.stat().st_mtime  # by the clock of the storage: this machine's may be off
        for leftover in folder.parent.glob(f"{MAKING}*"):
            with suppress(FileNotFoundError):  # its process is done with it
                if now - leftover.stat().st_mtime > OLD:
                    shutil.rmtree(leftover, ignore_errors=True)
    try:
        make(temporary)
        with writing(folder):
            for file in temporary.rglob("*"):  # whole on the disk, before its name says that it is
                if file.is_file() and not file.is_symlink():
                    with file.open("rb") as content:
                        os.fsync(content.fileno())
            try:
                os.rename(temporary, folder)
            except OSError:
                if not folder.is_dir():  # another process has made it
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
