"""What spares memory or time on a GPU changes no vector, and is no part of a run's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]


@pytest.mark.parametrize("method", ["ti", "dti"])
def test_checkpointing_changes_no_vector(method: str, training: Training, tmp_path: Path) -> None:
    plain = training(f"method={method}", f"runs={tmp_path / 'plain'}")
    spared = training(f"method={method}", f"runs={tmp_path / 'spared'}", "backbone.checkpointing=true")
    a, b = (load_embedding(train(cfg)[0].embedding)[1] for cfg in (plain, spared))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert run_folder(plain).config_hash == run_folder(spared).config_hash


def test_checkpointing_keeps_less_for_the_way_back(checkpoint: Path) -> None:
    kept = []
    for checkpointing in (False, True):
        backbone = StableDiffusion("x", str(checkpoint), 64, checkpointing=checkpointing)
        hidden = torch.randn(1, 32, backbone.spec.encoders["text_encoder"].dim, requires_grad=True)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone.denoiser(torch.randn(1, 4, 16, 16), 500, hidden)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_compile_is_of_the_denoiser_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def compiled(call: Callable[..., object], **options: object) -> Callable[..., object]:
        return lambda *a, **k: (passes.append(1), call(*a, **k))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    backbone = StableDiffusion("x", str(checkpoint), None, compile=True)
    conditioning = backbone.encode_text(backbone.tokenize(["a cat"], {}))
    latents = backbone.encode_images(torch.zeros(1, 3, 16, 16)).mean
    assert not passes
    backbone.loss(latents, latents, torch.tensor([5]), conditioning)
    assert passes == [1]


def test_anything_but_true_and_false_is_one_clear_line(checkpoint: Path) -> None:
    for key in ("checkpointing", "compile"):
        with pytest.raises(InputError, match=rf"backbone.{key} is full: true or false"):
            validate("train", compose("train", [f"backbone.path={checkpoint}", f"backbone.{key}=full"]))
