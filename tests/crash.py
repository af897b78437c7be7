"""A process that dies, and what it must have left behind."""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.training.batches import Batch, ConceptDataset


def assert_same(a: ConceptFolder, b: ConceptFolder) -> None:
    for name in ("embedding.safetensors", "last.ckpt", "log.csv", "concept.json"):
        assert (a.path / name).is_file() == (b.path / name).is_file()
        assert not (a.path / name).is_file() or (a.path / name).read_bytes() == (b.path / name).read_bytes(), name


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die while drawing a later step's samples, as a killed process would: nothing is tidied up."""
    draw = ConceptDataset.__getitem__

    def dying(self: ConceptDataset, k: int) -> Batch:
        if k == step:
            raise MemoryError
        return draw(self, k)

    monkeypatch.setattr(ConceptDataset, "__getitem__", dying)


class Crash(BaseException):
    """The machine is gone: not an Exception, so that nobody takes it for an error to be handled."""


class Crasher:
    """Counts what a process does to files below a folder, and at a chosen action dies: neither this one nor any later
    one happens, so that nothing is tidied up either. Actions: opening for writing (which leaves an empty file), a
    file's first write (which leaves half of it), renaming, serialising a checkpoint."""

    def __init__(self, root: Path, at: int | None = None) -> None:
        self.root, self.at, self.count = root, at, 0
        self.died = ""

    def act(self, name: str, path: object) -> None:
        if self.died:
            raise Crash
        self.count += 1
        if self.count == self.at:
            self.died = f"{name} {path}"

    @contextmanager
    def installed(self) -> Iterator[Crasher]:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((io, "open"), (builtins, "open")):
                patch.setattr(module, name, self._opening(getattr(module, name)))
            for module, name in ((os, "replace"), (os, "unlink"), (os, "ftruncate"), (torch, "save")):
                patch.setattr(module, name, self._acting(name, getattr(module, name)))
            yield self

    def _opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not isinstance(file, (str, Path)) or not Path(file).is_relative_to(self.root) or mode in ("r", "rb"):
                return original(file, mode, *arguments, **options)
            self.act(f"open {mode}", file)
            opened = original(file, mode, *arguments, **options)
            if self.died:
                opened.close()
                raise Crash
            opened.write = self._writing(opened, file)
            return opened

        return opening

    def _writing(self, opened: IO[Any], file: object) -> Callable[[Any], int]:
        """The file's write, which counts when it is called first."""
        original, first = opened.write, iter([True])

        def writing(data: Any) -> int:
            if next(first, False):
                self.act("write", file)
                if self.died:
                    original(data[: len(data) // 2])
                    opened.close()
                    raise Crash
            return original(data)

        return writing

    def _acting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any, **options: Any) -> Any:
            counted = name in ("replace", "save")  # the others are only forbidden to the dead
            if counted:
                self.act(name, arguments[0])
            if self.died:
                raise Crash
            return original(*arguments, **options)

        return acting


def started(entry: Callable[[], None], arguments: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Start a real entry point in a process of its own, after `prepare()` in it; its id. A fork: the imports, which
    take most of the time, are there already. torch must have used one thread only until then."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            prepare()
            sys.argv = ["dti_repro", *arguments]
            entry()
            status = 0
        except SystemExit as exit:
            status = int(exit.code or 0)
        finally:
            os._exit(status)
    return child


def obey_permissions() -> None:
    """Root may write into any folder; without its capabilities it may not, and nothing gives this process them back."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3; this process
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def status_of(child: int) -> int:
    """Wait for its end; negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(root: Path) -> dict[str, bytes]:
    """Every file that must be the same however often a process died; times, hosts and locks may differ, and what a
    dead process was writing stays hidden until somebody next locks its folder."""
    files = (path for path in root.rglob("*") if path.is_file() and ".tmp" not in path.suffixes)
    kept = (p for p in files if p.name not in ("provenance.json", "lock") and not p.match("scores/*.[jl]*"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}
