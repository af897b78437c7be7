"""The quality of a picture is what pyiqa's own call gives, on a small random MUSIQ in the published form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics.base import Sample, ScoreMetric
from dti_repro.metrics.catalogue import metric_config

pyiqa = pytest.importorskip("pyiqa")
SMALL = {"num_layers": 1, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2}


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (64, 96), (80, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from pyiqa.models.inference_model import DEFAULT_CONFIGS

    monkeypatch.setitem(DEFAULT_CONFIGS["musiq"], "metric_opts", {"type": "MUSIQ", "pretrained": False, **SMALL})
    torch.manual_seed(0)
    file = tmp_path / "musiq.pth"
    torch.save(pyiqa.create_metric("musiq", device="cpu").net.state_dict(), file)
    return file


def test_quality_is_pyiqas(checkpoint: Path, images: list[Image.Image], tmp_path: Path) -> None:
    metric = build({**metric_config("quality"), "checkpoint": str(checkpoint)}, ScoreMetric)
    theirs = pyiqa.create_metric("musiq", device="cpu", pretrained_model_path=str(checkpoint))
    expected = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        expected.append(theirs(str(tmp_path / f"{number}.png")).item())
    assert metric.score(images, [Sample("dog", "")] * 3).tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_a_file_that_holds_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        build({**metric_config("quality"), "checkpoint": str(tmp_path / "w.pth")}, ScoreMetric)
