"""Rendered scenes of the pretraining distribution, kept on disk once and mapped into memory."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from dti_repro.artifacts.files import atomic_write
from dti_repro.toybox.drawing import SIZE, render
from dti_repro.toybox.scene import Scene
from dti_repro.toybox.world import world

WORLD_VERSION = 1  # of the packaged weights and subjects


class RenderedScenes:
    """``count`` scenes of one stream; scene ``i`` is a function of (stream, i) alone.

    ``images`` is (count, 48, 48, 3) uint8. Streams are disjoint sets of individuals: 0 pretraining, 1 its held-out
    scenes, 2 table subjects, 3 validation subjects; the evaluators have theirs.
    """

    def __init__(self, stream: int, count: int, cache: str | Path, world: int = WORLD_VERSION, processes: int = 2):
        self.stream, self.count, self.world = stream, count, world
        path = Path(cache) / f"world{world}-stream{stream}-{count}.npy"
        if not path.exists():
            _render_all(path, world, stream, count, processes)
        self.images = np.load(path, mmap_mode="r")

    def scene(self, index: int) -> Scene:
        return scene_of(self.stream, index, self.world)


def scene_of(stream: int, index: int, version: int = WORLD_VERSION) -> Scene:
    return world(version).scene_of(stream, index)


def _render_all(path: Path, version: int, stream: int, count: int, processes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        rendered = pool.imap(partial(_rendered, version, stream), range(count), chunksize=256)
        for index, image in track(enumerate(rendered), f"rendering {path.name}", total=count):
            images[index] = image
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, images)


def _rendered(version: int, stream: int, index: int) -> np.ndarray:
    return render(scene_of(stream, index, version))
