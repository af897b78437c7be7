"""Keep Python's garbage collector from the imports of a command.

The libraries make a million objects that live until the exit. To look through them takes a quarter of a command's
start, and a second at its end (benchmarks/startup.py).
"""

from __future__ import annotations

import atexit
import gc

USUAL = gc.get_threshold()
WHILE_LOADING = 1_000_000  # new objects between two collections


def collect_rarely() -> None:
    """Collect after a million new objects, and none at the exit."""
    gc.set_threshold(WHILE_LOADING)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """End `collect_rarely`, before work in which dead tensors may hang in reference cycles."""
    if gc.get_threshold()[0] == WHILE_LOADING:
        gc.set_threshold(*USUAL)
