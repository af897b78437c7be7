"""Snapshots are a run's own vectors on the way; one that is asked for later leaves the finished run as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]


def test_snapshots_are_the_runs_own_vectors_on_the_way(training: Training) -> None:
    folder = train(training("trainer.snapshots=[2,6]"))[0]
    assert torch.equal(load_embedding(folder.snapshot(6))[1], load_embedding(folder.embedding)[1])
    assert not torch.equal(load_embedding(folder.snapshot(2))[1], load_embedding(folder.embedding)[1])
    kept = folder.embedding, folder.log, folder.checkpoint, folder.provenance
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in kept]
    assert train(training("trainer.snapshots=[2,4,6]"))[0].snapshot(4).is_file()  # asked for later: trained again
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in kept] == before  # beside what there is
    assert not list(folder.snapshot(4).parent.glob("*.ckpt"))


def test_snapshots_asked_for_later_go_on_after_a_kill(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = ["concepts.names=[bob]", "trainer.checkpoint_every=1"]
    whole = train(training("trainer.snapshots=[4]", *bob))[0].snapshot(4).read_bytes()
    runs = f"runs={tmp_path / 'other'}"
    folder = train(training(runs, *bob))[0]
    asked = training("trainer.snapshots=[4]", runs, *bob)
    steps, step = [], InversionModule.training_step

    def killed_at(last: int) -> None:
        def counted(self: InversionModule, *arguments: Any) -> None:
            steps.append(self.states[0].step)
            if len(steps) == last:
                raise OSError("killed")
            step(self, *arguments)

        monkeypatch.setattr(InversionModule, "training_step", counted)

    killed_at(3)
    with pytest.raises(OSError, match="killed"):
        train(asked)
    killed_at(99)
    assert train(asked)[0].snapshot(4).read_bytes() == whole
    assert steps == [0, 1, 2, 2, 3]  # and not on to the last step
    assert folder.logged() == 6
