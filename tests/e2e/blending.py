"""The page of `dti blend` on an untrained checkpoint, served from a thread, for tests that ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from dti_repro.config import validate
from dti_repro.inference.blend import Blend
from dti_repro.inference.blend_server import BlendServer
from dti_repro.launch.command_line import compose, quote_paths


def prepared(checkpoint: Path, run: Path, b: str = "tom", *more: str) -> tuple[Blend, DictConfig]:
    """Return the checked words of a run's folder and the configuration, before the model is loaded."""
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", "threads=1", "accelerator=cpu", "steps=2"]
    words = [f"a={run / 'rex'}", f"b={run / b}", *more]
    cfg = compose("blend", [*map(quote_paths, (*model, *words))])
    validate("blend", cfg)
    return Blend(cfg), cfg


@contextmanager
def served(checkpoint: Path, run: Path, b: str = "tom") -> Iterator[BlendServer]:
    blend, cfg = prepared(checkpoint, run, b)
    blend.load()
    with BlendServer(blend, cfg) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
