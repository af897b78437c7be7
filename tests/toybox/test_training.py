"""The loop that pretrains the toybox: a killed run ends where an unbroken one does, two processes step as one would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from dti_repro.toybox.pretrain import _check_folders, _check_settings
from dti_repro.toybox.training import Stage, fit

SETTINGS = {"lr": 0.01, "warmup": 5, "decay": 10, "bf16": False, "checkpoint_every": 10}


class Line(Stage):
    """Fits a line; its batch is a function of the step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        return (self.model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    def evaluate(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "line.pt")

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(torch.load(folder / "line.pt", weights_only=True))


class BothBatches(Line):
    """One process that sees in a step what two see."""

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        return (super().loss(2 * step)[0] + super().loss(2 * step + 1)[0]) / 2, {}


def one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stage = Line()
    fit(stage, folder, steps=60, **SETTINGS)
    torch.save(stage.model.state_dict(), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_step_as_one_with_both_batches(tmp_path: Path) -> None:
    quick = "spawn" if torch.cuda.is_initialized() else "fork"  # which need not import torch again
    torch.multiprocessing.start_processes(one_of_two, args=(tmp_path,), nprocs=2, start_method=quick)
    alone = BothBatches()
    fit(alone, tmp_path / "alone", steps=60, **SETTINGS)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(state, dict(alone.model.state_dict()))
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1  # written by one of them


def test_pretraining_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    settings = SETTINGS | {"checkpoint_every": 40}
    whole, broken = Line(), Line()
    fit(whole, tmp_path / "whole", steps=60, **settings)

    class Killed(Exception):
        pass

    loss = broken.loss

    def killed_at_55(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 55:
            raise Killed
        return loss(step)

    broken.loss = killed_at_55  # type: ignore[method-assign]
    with pytest.raises(Killed):
        fit(broken, tmp_path / "broken", steps=60, **settings)
    resumed = Line()
    fit(resumed, tmp_path / "broken", steps=60, **settings)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    logged = [line.split(",")[0] for line in (tmp_path / "broken" / "log.csv").read_text().splitlines()]
    assert logged == ["50"]  # reached twice, told once


def test_a_folder_of_other_settings_or_without_its_weights_is_one_line(tmp_path: Path) -> None:
    settings = {"stage": {"name": "unet", "fit": {"steps": 5, "lr": 1e-3}}, "start_from": None}
    _check_settings(tmp_path, settings)
    (tmp_path / "last.pt").touch()
    longer = {**settings, "stage": {"name": "unet", "fit": {"steps": 9, "lr": 1e-3}}}
    _check_settings(tmp_path, longer)
    for other in ({**settings, "start_from": "weights"}, {**settings, "stage": {"name": "unet", "fit": {"lr": 2e-3}}}):
        with pytest.raises(InputError, match="has a training with other settings or start_from: give folder="):
            _check_settings(tmp_path, other)
    cfg = compose("toybox_pretrain", ["stage=unet", f"save_to={tmp_path}"])
    with pytest.raises(InputError, match=r"parts, tokenizer: .* does not exist; stage=text_encoder and stage=vae make"):
        _check_folders(cfg)
