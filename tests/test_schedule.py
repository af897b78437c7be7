"""The learning rate follows each concept's own step, and torch's other optimizers are as exact as AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.optimization import get_scheduler
from omegaconf import DictConfig
from torch import nn

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.errors import InputError, OutOfMemoryError
from dti_repro.experiments.training_columns import norms_on_noise
from dti_repro.launch.command_line import compose
from dti_repro.optim.schedule import Schedule
from dti_repro.training.runs import hashed
from dti_repro.training.train_missing import train
from tests.crash import assert_same, stop_after

Training = Callable[..., DictConfig]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_rates_are_those_of_diffusers_scheduler(kind: str, warmup: int) -> None:
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(name, theirs, num_warmup_steps=warmup, num_training_steps=20)
    concept = nn.ParameterList([nn.Parameter(torch.zeros(1))])
    schedule = Schedule(kind, warmup, 20)
    ours = torch.optim.SGD(schedule.groups([{"params": list(concept)}], [concept]), lr=0.3)
    for step in range(20):
        schedule.apply(ours, [step])
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("method", ["ti", "dti"])
def test_concepts_at_other_steps_are_each_at_their_own_rate(
    method: str, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (f"method={method}", "optim.schedule=cosine", "optim.warmup=2", "trainer.checkpoint_every=1")
    alone = {
        name: train(training(*keys, f"concepts.names=[{name}]", f"runs={tmp_path / 'alone'}"))[0]
        for name in ("ann", "bob")
    }
    stop_after(monkeypatch, 4)
    with pytest.raises(OutOfMemoryError):
        train(training(*keys, "concepts.names=[ann]"))
    monkeypatch.undo()
    for folder in train(training(*keys, "trainer.fuse=false", "concepts.names=[ann,bob]")):  # ann begins at step 4
        assert_same(folder, alone[folder.name])
    constant = train(training(f"method={method}", "concepts.names=[ann]", f"runs={tmp_path / 'constant'}"))[0]
    assert constant.path.parents[1].name != alone["ann"].path.parents[1].name
    assert not torch.equal(load_embedding(constant.embedding)[1], load_embedding(alone["ann"].embedding)[1])


@pytest.mark.parametrize(
    "optimizer",
    [
        *("NAdam", "Adafactor", "ASGD", "SGD +optim.momentum=0.9"),
        # whose state is of the same kind
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("RAdam", "Adagrad", "Rprop")),
    ],
)
def test_any_optimizer_of_torch_goes_on_where_it_was_killed(
    optimizer: str, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *more = optimizer.split()
    keys = ("method=ti", "optim=custom", f"optim._target_=torch.optim.{name}", "trainer.checkpoint_every=2", *more)
    whole = train(training(*keys, f"runs={tmp_path / 'whole'}"))[0]
    stop_after(monkeypatch, 3)
    with pytest.raises(OutOfMemoryError):
        train(training(*keys))
    monkeypatch.undo()
    assert_same(train(training(*keys))[0], whole)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["optim=custom"], r"optim\._target_ '\?\?\?' is refused"),
        (["optim=custom", "optim._target_=torch.optim.LBFGS"], "optim: LBFGS cannot step from the gradients alone"),
        (["optim=custom", "optim._target_=torch.optim.SparseAdam"], "optim: SparseAdam cannot step"),
        (["optim=custom", "optim._target_=torch.optim.lr_scheduler.StepLR"], "is refused: a class of the kind Opt"),
        (["optim=custom", "optim._target_=torch.nn.Linear"], "is refused: a class of the kind Optimizer"),
        (["optim=custom", "optim._target_=torch.optim.SGD", "+optim.speed=1"], r"no such key: optim: SGD"),
        (["optim.schedule=step"], r"optim\.schedule is step: constant, cosine or linear"),
        (["optim.warmup=6"], r"optim\.warmup is 6: fewer steps than trainer\.steps"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_train_is_one_line(
    keys: list[str], words: str, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=words) as error:
        train(training("method=ti", *keys))
    assert "\n" not in str(error.value)


def test_a_constant_rate_is_the_run_that_it_was(training: Training) -> None:
    assert hashed(training("method=ti"))["optim"].keys() == {"_target_", "lr", "betas", "eps", "weight_decay"}
    assert "resolution" in hashed(training())["backbone"]  # null, and yet a part of older hashes
    assert hashed(training("optim.warmup=3"))["optim"]["warmup"] == 3


def test_the_norm_on_noise_is_that_of_the_scheduled_rate() -> None:
    plain, sinking = (compose("train", ["method=ti", f"optim.schedule={s}"]).optim for s in ("constant", "linear"))
    assert norms_on_noise(sinking, 0.1, [64], 200)[-1] < 0.8 * norms_on_noise(plain, 0.1, [64], 200)[-1]


def test_the_norm_on_noise_is_the_mean_over_text_encoders() -> None:
    plain = compose("train", ["method=ti"]).optim
    one, two = (norms_on_noise(plain, 0.1, [dim], 20) for dim in (32, 48))
    assert norms_on_noise(plain, 0.1, [32, 48], 20) == pytest.approx(
        [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    )
