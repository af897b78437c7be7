"""Pretraining shows the denoiser each scene as often as its settings say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.errors import InputError
from dti_repro.toybox.dataset import RenderedScenes
from dti_repro.toybox.sampling import scene_of
from dti_repro.toybox.unet import Denoiser


class FewScenes(RenderedScenes):
    """Of noise: only what the captions say of them counts here."""

    def __init__(self, count: int) -> None:
        self.stream, self.count = 0, count
        self.images = np.random.default_rng(0).integers(0, 256, (count, 48, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_accessories_are_shown_as_often_as_asked(
    weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = FewScenes(40)
    narrow = {"channels": (16, 16, 16), "heads": 2, "batch": 64, "dropout": 0.0}
    stage = Denoiser(scenes, scenes, str(PACKAGED), str(tmp_path), accessory_weight=weight, **narrow)
    shown: list[int] = []
    caption = stage._caption
    monkeypatch.setattr(stage, "_caption", lambda index, variant: shown.append(index) or caption(index, variant))
    for step in range(4):
        stage.loss(step)
    worn = [scene_of(0, i).accessory != "none" for i in range(scenes.count)]
    expected = weight * sum(worn) / (weight * sum(worn) + scenes.count - sum(worn))
    assert np.mean([worn[i] for i in shown]) == pytest.approx(expected, abs=0.09)  # 3 deviations of 256 draws


def test_attention_that_is_added_to_trained_weights_changes_nothing_at_first(tmp_path: Path) -> None:
    scenes = FewScenes(4)
    trained, grown, other = (
        Denoiser(scenes, scenes, str(PACKAGED), str(tmp_path), channels=channels, attention=attention, heads=2)
        for channels, attention in (
            ((16, 16, 16), (False, True, True)),
            ((16, 16, 16), (True, True, True)),
            ((32, 16, 16), (True, True, True)),
        )
    )
    trained.model.save_pretrained(tmp_path / "unet")
    grown.load(tmp_path)
    inputs = torch.randn(2, 6, 12, 12), torch.tensor([10, 500]), torch.randn(2, 32, 256)
    with torch.no_grad():
        one, two = (stage.model.eval()(*inputs).sample for stage in (trained, grown))
    torch.testing.assert_close(one, two)
    assert sum(p.numel() for p in grown.model.parameters()) > sum(p.numel() for p in trained.model.parameters())
    with pytest.raises(InputError, match="another architecture"):
        other.load(tmp_path)
