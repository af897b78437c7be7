"""Training started again: nothing is done twice, and nothing is lost."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from omegaconf import DictConfig
from PIL import Image

from dti_repro.errors import DivergedError, InputError
from dti_repro.training.callbacks import ConceptCheckpoint
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train, train_missing
from tests.crash import assert_same, content, stop_after

Training = Callable[..., DictConfig]


def test_a_second_call_trains_nothing(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(training())
    monkeypatch.setattr(InversionModule, "training_step", lambda *_: pytest.fail("trained again"))
    assert train(training("trainer.pack=1", "logger=tensorboard", "trainer.checkpoint_every=3")) == first


def test_a_crash_between_the_log_and_the_checkpoint_leaves_no_trace(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    stop_after(monkeypatch, step=5)
    with pytest.raises(MemoryError):
        train(training("trainer.checkpoint_every=4"))
    monkeypatch.undo()
    folder = run_folder(training()).concept("ann")
    with folder.log.open("a") as file:
        file.write("5,0.1,0.2,0.3,0.4\n6,0.1,0.")
    assert_same(train(training())[0], whole)
    assert json.loads(folder.provenance.read_text())["resumed_from_step"] == 4  # no more than checkpoint_every is lost


def test_concepts_of_a_pack_may_be_at_different_steps(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training("concepts.names=all", f"runs={tmp_path / 'whole'}"))
    stop_after(monkeypatch, step=3)
    with pytest.raises(MemoryError):
        train(training("concepts.names=[bob]", "trainer.checkpoint_every=2"))
    monkeypatch.undo()
    for ours, theirs in zip(train(training("concepts.names=all")), whole, strict=True):
        assert_same(ours, theirs)


def test_an_exploding_loss_stops_and_a_start_is_no_state_to_go_on_from(training: Training) -> None:
    both = "concepts.names=[ann,bob]"
    with pytest.raises(DivergedError, match=r"'ann' diverged at step 1.*nothing was learned"):
        train(training(both, "trainer.max_loss=1e-6"))
    assert all(folder.is_done() for folder in train(training(both, "trainer.steps=6")))


def test_what_is_missing_of_a_run_is_made_again(training: Training) -> None:
    """Whatever is lost or damaged, the same command gives the same files; nothing is done twice afterwards."""
    cfg = training("trainer.snapshots=[2]")
    folder = train(cfg)[0]
    whole = content(folder.seed_folder.parent)
    zeros = safetensors.numpy.save({"<ann>": np.full((1, 32), np.nan, np.float32)})
    for path, damage in [
        (folder.metadata, None),
        (folder.config, None),
        (folder.config, b""),
        (folder.log, None),
        (folder.log, b"step,loss\n1,0.5\n"),
        (folder.embedding, b""),
        (folder.embedding, folder.embedding.read_bytes()[:-4]),
        (folder.embedding, zeros),
        (folder.snapshot(2), b""),
    ]:
        path.unlink() if damage is None else path.write_bytes(damage)
        assert train_missing(cfg) == ([folder], 0 if path == folder.config else 1)
        assert content(folder.seed_folder.parent) == whole, path.name
        assert train_missing(cfg) == ([folder], 0)


def test_a_kill_before_the_embedding_leaves_its_provenance(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConceptCheckpoint, "_save_embedding", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        train(training())
    monkeypatch.undo()
    folder = run_folder(training()).concept("ann")
    before = folder.provenance.read_bytes()
    assert not folder.is_done()
    assert train(training())[0].is_done()
    assert folder.provenance.read_bytes() == before


def test_what_another_process_finished_meanwhile_was_there(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_missing(training())[1] == 1
    monkeypatch.setattr(
        "dti_repro.training.train_missing.is_complete", lambda *_: False
    )  # as it was when this one began
    assert train_missing(training())[1] == 0


def test_a_second_process_on_the_same_concept_is_refused(training: Training) -> None:
    folder = run_folder(training()).concept("ann")
    folder.path.mkdir(parents=True)
    with folder.lock.open("w") as lock:
        lock.write(f"process 7 on {socket.gethostname()}\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="'ann' is being trained by process 7 on "):
            train(training())
    assert train(training())[0].is_done()


def test_other_photos_under_the_same_name_are_not_taken_for_the_same_concept(
    of_photos: Training, tmp_path: Path
) -> None:
    (tmp_path / "rex").mkdir()
    Image.new("RGB", (20, 30), "red").save(tmp_path / "rex" / "a.png")
    cfg = of_photos(tmp_path / "rex")
    assert train(cfg)[0].name == "rex"
    Image.new("RGB", (20, 30), "blue").save(tmp_path / "rex" / "a.png")
    with pytest.raises(InputError, match=r"rex.*images"):
        train(cfg)


def test_an_adapter_that_is_lost_of_a_snapshot_is_made_again(training: Training) -> None:
    asked = ["adapter=lora", "trainer.pack=1", "concepts.names=[ann]", "trainer.snapshots=[3]"]
    (folder,) = train(training(*asked))
    adapter = folder.snapshot(3).with_suffix(".adapter")
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    shutil.rmtree(adapter)
    train(training(*asked))
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
