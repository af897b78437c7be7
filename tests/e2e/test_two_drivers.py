"""The same sweep started twice by mistake: nothing is computed twice, and the bytes are those of one sweep."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from dti_repro import train as train_module
from dti_repro.training.batches import Batch
from dti_repro.training.lit_module import InversionModule
from tests.crash import content, started, status_of
from tests.e2e.tiny_benchmark import EXTRA

CELLS = 2 * 3  # methods and concepts
STEPS = 4  # of EXTRA


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used a GPU cannot be forked")
def test_two_drivers_at_once_compute_no_cell_twice(
    checkpoint: Path, subjects: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", f"concepts.root={subjects}", *EXTRA]
    sweep = ["-m", "method=ti,dti", "concepts.names=all", "concepts.per_job=1", *model]
    steps = tmp_path / "steps"

    def noted() -> None:
        """Note each step that is taken; the first one waits until the other driver takes one, too."""
        step = InversionModule.training_step

        def noting(self: InversionModule, batch: dict[int, Batch], batch_idx: int) -> None:
            (state,) = (self.states[c] for c in batch)
            with steps.open("a") as file:
                file.write(f"{os.getpid()} {state.folder.path} {state.step}\n")
            until = time.monotonic() + 120
            while len({line.split()[0] for line in steps.read_text().splitlines()}) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            step(self, batch, batch_idx)

        InversionModule.training_step = noting

    drivers = [started(train_module.main, [*sweep, f"runs={tmp_path / 'two'}"], noted) for _ in range(2)]
    statuses = {status_of(driver) for driver in drivers}
    said = capfd.readouterr()
    assert 2 in statuses  # one of them at least came upon a cell that the other was at, and says so
    assert "is being trained by process" in said.err
    taken = [line.split() for line in steps.read_text().splitlines()]
    assert {int(process) for process, *_ in taken} == set(drivers)
    assert Counter((folder, step) for _, folder, step in taken).most_common(1)[0][1] == 1
    assert len(taken) == CELLS * STEPS

    assert status_of(started(train_module.main, [*sweep, f"runs={tmp_path / 'two'}"])) == 0
    assert f"{CELLS} jobs: {CELLS} finished before" in capfd.readouterr().out
    assert status_of(started(train_module.main, [*sweep, f"runs={tmp_path / 'one'}"])) == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


def results(runs: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(runs).items() if not name.startswith(".multirun/")}
