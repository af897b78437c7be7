"""Rendered scenes of the pretraining distribution, kept on disk once and mapped into memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from dti_repro.artifacts.files import atomic_write
from dti_repro.toybox.drawing import SIZE, render
from dti_repro.toybox.sampling import WORLD, scene_of
from dti_repro.toybox.scene import Scene


class RenderedScenes:
    """``count`` scenes of one stream; scene ``i`` is a function of (stream, i) alone.

    ``images`` is (count, 48, 48, 3) uint8. Streams are disjoint sets of individuals: 0 pretraining, 1 its held-out
    scenes, 2 table subjects, 3 validation subjects; the evaluators have theirs.
    """

    def __init__(self, stream: int, count: int, cache: str | Path, processes: int = 2):
        self.stream, self.count = stream, count
        path = Path(cache) / f"world{WORLD}-stream{stream}-{count}.npy"
        self.images = kept(path, lambda: _render_all(path.name, stream, count, processes))

    def scene(self, index: int) -> Scene:
        return scene_of(self.stream, index)


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in a file, mapped into memory; it is made and written first where there is no file."""
    if not path.exists():
        made = make()
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, made)
    return np.load(path, mmap_mode="r")


def _render_all(name: str, stream: int, count: int, processes: int) -> np.ndarray:
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        rendered = pool.imap(partial(_rendered, stream), range(count), chunksize=256)
        for index, image in track(enumerate(rendered), f"rendering {name}", total=count):
            images[index] = image
    return images


def _rendered(stream: int, index: int) -> np.ndarray:
    return render(scene_of(stream, index))
