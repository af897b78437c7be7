"""Ctrl-C, signals of a cluster and the bar: a training that a person or a scheduler ends says where it stands."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

from dti_repro.errors import StoppedError
from dti_repro.training.batches import Batch, ConceptDataset
from dti_repro.training.callbacks import StepBar
from dti_repro.training.train_missing import train
from tests.crash import content

Training = Callable[..., DictConfig]


@pytest.fixture
def answered_ctrl_c() -> Iterator[None]:
    """A shell starts what it puts into the background with SIGINT ignored; a person at a terminal has an answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("answered_ctrl_c")
def test_ctrl_c_saves_what_there_is_and_the_same_command_goes_on(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    draw = ConceptDataset.__getitem__

    def pressed(self: ConceptDataset, step: int) -> Batch:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, step)

    monkeypatch.setattr(ConceptDataset, "__getitem__", pressed)
    with pytest.raises(StoppedError, match=r"stopped after step 4 of 6 \(ann\): the same command goes on from there"):
        train(training())
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    folder = train(training())[0]
    assert content(folder.path) == content(whole.path)
    assert json.loads(folder.provenance.read_text())["resumed_from_step"] == 4


def test_the_bar_counts_from_where_the_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said, clock = io.StringIO(), iter(range(0, 1000, 4))
    monkeypatch.setattr(said, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", said)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    module = SimpleNamespace(
        states=[SimpleNamespace(step=300), SimpleNamespace(step=294)],
        settings=SimpleNamespace(steps=400),
        last_loss=0.25,
    )
    bar = StepBar()
    bar.on_train_start(None, module)
    for _ in range(2):
        bar.on_train_batch_end(None, module)
    bar.on_train_end(None, module)
    assert "step 296 of 400" in said.getvalue()
    assert "s/it" in said.getvalue()
    assert "loss 0.2500" in said.getvalue()


def test_signals_of_a_cluster_reach_whoever_had_them(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would requeue a job by itself at SIGUSR1 and end a training at SIGTERM; submitit's handlers, which
    know better, stay while a step is taken."""
    taken: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda given, _: taken.append(given)) for number in numbers}
    draw = ConceptDataset.__getitem__

    def signalled(self: ConceptDataset, step: int) -> Batch:
        if step == 1:
            for number in numbers:
                os.kill(os.getpid(), number)
        return draw(self, step)

    monkeypatch.setattr(ConceptDataset, "__getitem__", signalled)
    try:
        assert train(training("trainer.steps=3"))[0].is_done()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert taken == list(numbers)
