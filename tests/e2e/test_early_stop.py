"""`trainer.stop=dvar` ends each concept's training where the rule says so, however the training is packed or killed."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from statistics import pvariance
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.experiments.notes import steps_used
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.runs import has_settled, hashed, is_complete
from dti_repro.training.train_missing import train, train_missing
from tests.crash import assert_same, stop_after

Training = Callable[..., DictConfig]
STOP = ["trainer.stop=dvar", "trainer.stop_window=4", "trainer.stop_eps=0.3", "trainer.steps=40"]


def losses(folder: ConceptFolder) -> list[float]:
    return [float(row["eval_loss"]) for row in csv.DictReader(folder.log.open())]


def says_stop(values: list[float], window: int, eps: float) -> bool:
    """The rule in the standard library's numbers."""
    return len(values) >= window and pvariance(values[-window:]) < eps * pvariance(values)


def test_the_rule_is_the_share_of_the_variance_in_the_last_losses() -> None:
    draw = random.Random(0)
    values = [1 / (1 + 0.1 * k) + 0.05 * draw.random() for k in range(200)]
    for window, eps in ((10, 0.1), (30, 0.15), (50, 0.5)):
        trainer = OmegaConf.create({"stop_window": window, "stop_eps": eps})
        found = [has_settled(values[:k], trainer) for k in range(1, 201)]
        assert found == [says_stop(values[:k], window, eps) for k in range(1, 201)]
        assert True in found
    assert not has_settled([1.0] * 9, OmegaConf.create({"stop_window": 3, "stop_eps": 0.5}))  # no variance says nothing


def test_each_concept_of_a_pack_stops_where_it_does_alone(training: Training, tmp_path: Path) -> None:
    names = ["ann", "bob", "cid"]
    keys = [*STOP, "trainer.snapshots=[2,40]"]
    packed = train(training(*keys, f"concepts.names=[{','.join(names)}]", f"runs={tmp_path / 'packed'}"))
    for folder in packed:
        found = losses(folder)
        assert [says_stop(found[:k], 4, 0.3) for k in range(1, len(found) + 1)] == [False] * (len(found) - 1) + [True]
        assert folder.snapshot(2).is_file()
        assert not folder.snapshot(40).is_file()
        assert len(set(found)) == len(found)
        (alone,) = train(training(*keys, f"concepts.names=[{folder.name}]", f"runs={tmp_path / 'alone'}"))
        assert_same(folder, alone)
    assert len({folder.logged() for folder in packed}) > 1
    again = training(*keys, f"concepts.names=[{','.join(names)}]", f"runs={tmp_path / 'packed'}")
    assert train_missing(again)[1] == 0


def test_a_killed_training_stops_at_the_same_step(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = train(training(*STOP, f"runs={tmp_path / 'whole'}"))
    cfg = training(*STOP, "trainer.checkpoint_every=2")
    stop_after(monkeypatch, step=whole.logged() - 2)
    with pytest.raises(MemoryError):
        train(cfg)
    monkeypatch.undo()
    (again,) = train(cfg)
    assert_same(again, whole)
    again.embedding.unlink()  # it dies after its last checkpoint
    assert not is_complete(cfg, again)
    monkeypatch.setattr(ConceptDataset, "__getitem__", lambda *_: pytest.fail("a step is taken"))
    assert_same(train(cfg)[0], whole)


def test_a_run_without_its_last_step_is_not_complete(training: Training) -> None:
    cfg = training(*STOP)
    (folder,) = train(cfg)
    lines = folder.log.read_text().splitlines(keepends=True)
    folder.log.write_text("".join(lines[:-1]))
    assert not is_complete(cfg, folder)


def test_what_is_derived_from_a_stopped_training_is_complete(training: Training) -> None:
    cfg = training("method=ti_rescaled", *STOP, "optim.lr=0.3", "trainer.snapshots=[2,40]")
    (folder,) = train(cfg)
    assert folder.snapshot(2).is_file()
    assert is_complete(cfg, folder)


def test_without_a_stop_nothing_changes(training: Training) -> None:
    """Neither the run's name nor its log; its settings do not matter then."""
    assert set(hashed(training())["trainer"]) == {"steps", "batch", "accumulate", "precision"}
    assert hashed(training()) == hashed(training("trainer.stop_eps=0.5"))
    assert hashed(training(*STOP)) != hashed(training(*STOP, "trainer.stop_eps=0.5"))
    with pytest.raises(InputError, match=r"trainer.stop_window is 310: a stop needs a window below trainer.steps, 6"):
        validate("train", training("trainer.stop=dvar"))


def test_a_table_says_how_many_steps_a_stopped_row_used(training: Training) -> None:
    cfg = training(*STOP, "concepts.names=[ann,bob,cid]")
    folders = train(cfg)
    steps = [len(losses(folder)) for folder in folders]
    row = SimpleNamespace(spec=SimpleNamespace(label="DTI"), cfgs=[cfg], folders=folders)
    (note,) = steps_used([row])
    assert f"after {min(steps)} to {max(steps)} of 40 steps (mean {sum(steps) / 3:.0f})" in note
    assert steps_used([SimpleNamespace(spec=row.spec, cfgs=[training()], folders=folders)]) == []
