"""With masks a training counts the loss of the subject alone, on the latent grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.artifacts.files import read_json
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.frozen_model import weighted_mean
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.sana import Sana
from dti_repro.data.concept import Toybox
from dti_repro.data.encoded_views import EncodedViews
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.masks import with_masks
from dti_repro.data.views import Framing
from dti_repro.errors import InputError
from dti_repro.training.train_missing import train
from tests.tiny_flow import SIDE, build_tiny_sana

Training = Callable[..., DictConfig]


def test_the_weighted_mean_is_the_mean_of_what_is_counted() -> None:
    error = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.zeros(2, 4, 4, dtype=torch.float64)
    weight[0, :2], weight[1, :, 3], weight[1, 0, 0] = 1, 1, 0.5
    second = (error[1, :, :, 3].sum() + 0.5 * error[1, :, 0, 0].sum()) / (3 * 4.5)
    torch.testing.assert_close(weighted_mean(error, weight), torch.stack([error[0, :, :2].mean(), second]))
    torch.testing.assert_close(weighted_mean(error, torch.ones_like(weight)), error.mean(dim=(1, 2, 3)))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Sana("sana", str(build_tiny_sana(tmp_path_factory.mktemp("sana"))), SIDE)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_the_losses_of_two_halves_make_the_loss_of_the_whole(kind: str, training: Training, flow: Backbone) -> None:
    backbone = load_backbone(training().backbone, "cpu") if kind == "diffusion" else flow
    side = backbone.spec.resolution
    random = torch.Generator().manual_seed(0)
    latents = backbone.encode_images(torch.rand(2, 3, side, side, generator=random) * 2 - 1).mean
    noise = torch.randn(latents.shape, generator=random)
    given = backbone.encode_text(backbone.tokenize(["a cat", "a car"], {}))
    mask = (torch.rand(2, *latents.shape[-2:], generator=random) < 0.3).float()
    mask[:, 0, 0], mask[:, -1, -1] = 1, 0
    t = torch.tensor([100, 800])
    inside, outside, whole = (backbone.loss(latents, noise, t, given, weight) for weight in (mask, 1 - mask, None))
    share = mask.flatten(1).mean(dim=1)
    torch.testing.assert_close(share * inside + (1 - share) * outside, whole)
    assert not torch.allclose(inside, outside)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """For ann's three photos of 16 x 16: all white, the left 6 columns, none."""
    folder = tmp_path / "masks" / "ann"
    folder.mkdir(parents=True)
    Image.new("L", (16, 16), 255).save(folder / "0.png")
    left = np.zeros((16, 16), np.uint8)
    left[:, :6] = 200
    Image.fromarray(left).save(folder / "1.png")
    return folder.parent


def test_a_latent_counts_by_the_white_pixels_it_stands_for(
    training: Training, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = training()
    (concept,) = Toybox(["ann"], root=cfg.concepts.root).load()
    concept = with_masks(concept, masks)
    assert capsys.readouterr().err == "ann: 1 of 3 photos have no mask, and count as a whole: 2.png\n"
    views = EncodedViews(load_backbone(cfg.backbone, "cpu"), concept, LatentCache(None, {}), Framing(), 0)
    row = torch.tensor([1, 0.5, 0, 0])  # a latent is 4 pixels wide
    assert torch.equal(views.weight(torch.tensor([1, 0, 2])), torch.stack([row.expand(4, 4), *torch.ones(2, 4, 4)]))


def test_white_masks_learn_what_no_masks_do(training: Training, masks: Path) -> None:
    masked = [f"trainer.masks={masks}", "trainer.masks_in_loss=true", "concepts.names=[ann]", "method=ti"]
    plain = train(training("concepts.names=[ann]", "method=ti"))[0]
    half = train(training(*masked))[0]
    (masks / "ann" / "1.png").unlink()
    with pytest.raises(InputError, match=r"'ann' is not the one .* \(changed: masks\)"):
        train(training(*masked))
    white = train(training(*masked, "runs=" + str(masks.parent / "white")))[0]
    assert white.path.parents[1].name != plain.path.parents[1].name
    assert len(read_json(white.metadata, "")["masks"]) == 3
    expected, same, other = (load_embedding(run.embedding)[1] for run in (plain, white, half))
    torch.testing.assert_close(same, expected, rtol=1e-3, atol=1e-4)  # AdamW turns rounding into steps
    assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: Image.new("L", (16, 16)).save(file), r"0\.png is all black"),
        (lambda file: Image.new("L", (16, 8), 255).save(file), r"0\.png has 16 x 8 pixels, its photo 16 x 16"),
        (lambda file: file.parent.rename(file.parent.with_name("bob")), r"has no mask of ann, such as .*ann/0\.png"),
    ],
    ids=["black", "size", "none"],
)
def test_a_mask_that_cannot_be_used_is_one_line_before_a_model_is_loaded(
    spoil: Callable[[Path], object], words: str, training: Training, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    spoil(masks / "ann" / "0.png")
    with pytest.raises(InputError, match=words):
        train(training(f"trainer.masks={masks}", "trainer.masks_in_loss=true", "concepts.names=[ann]"))


def test_masks_in_the_loss_need_a_folder(training: Training) -> None:
    with pytest.raises(InputError, match=r"masks_in_loss needs trainer\.masks=<folder>"):
        train(training("trainer.masks_in_loss=true"))


def test_a_mask_that_is_black_in_the_crop_is_one_line_before_a_model_is_loaded(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    wide = Image.new("L", (48, 16))
    wide.paste(255, (0, 0, 8, 16))  # the subject is at the left edge
    (tmp_path / "masks" / "photos").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    wide.save(tmp_path / "masks" / "photos" / "a.png")
    Image.new("RGB", wide.size).save(tmp_path / "photos" / "a.png")
    cfg = training("trainer.masks_in_loss=true", f"trainer.masks={tmp_path / 'masks'}")
    node = {"_target_": "dti_repro.data.concept.Folder", "path": str(tmp_path / "photos"), "initializer": "cat"}
    cfg.concepts = node
    with pytest.raises(InputError, match=r"mask .*a\.png is black in the part of its photo that is trained on"):
        train(cfg)
