"""Diversity is torchmetrics' own LPIPS over the pairs of each prompt, and is 0 where every seed gives one picture."""

from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity
from torchvision import models
from torchvision.transforms.v2 import functional

from dti_repro.artifacts.scores import read_scores
from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics.base import Sample, SetMetric
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.diversity import WEIGHTS
from dti_repro.metrics.evaluator import Item, ScoreFile, score

TEXTS = ["a dog on a beach"] * 3 + ["a dog"] * 2 + ["a dog at night"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SqueezeNet under torchvision's name."""
    folder = tmp_path_factory.mktemp("torch_hub")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    network = models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), folder / "checkpoints" / WEIGHTS["squeeze"].url.rpartition("/")[2])
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)) for _ in TEXTS]


def metric_of(folder: Path) -> SetMetric:
    config = {**metric_config("diversity"), "net": "squeeze", "checkpoint": f"local-dir:{folder}", "resize": 64}
    return build(config, SetMetric)


def test_diversity_is_torchmetrics_lpips_over_the_pairs_of_each_prompt(
    folder: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = metric_of(folder)
    value = metric.score_set(metric.keep(images), [Sample("dog", text) for text in TEXTS])

    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    pixels = [functional.pil_to_tensor(functional.resize(image, 64, antialias=True))[None] / 255 for image in images]

    def lpips(i: int, j: int) -> float:
        return learned_perceptual_image_patch_similarity(pixels[i], pixels[j], "squeeze", normalize=True).item()

    expected = fmean([fmean(lpips(i, j) for i, j in combinations(range(3), 2)), lpips(3, 4)])
    assert value == pytest.approx(expected, rel=1e-5)
    assert metric.score_set(metric.keep(images[:1] * 3), [Sample("dog", TEXTS[0])] * 3) == 0
    assert np.isnan(metric.score_set(metric.keep(images[-1:]), [Sample("cat", "a cat")]))


def test_a_set_of_images_has_one_row_that_is_computed_once(images: list[Image.Image], tmp_path: Path) -> None:
    items = []
    for number, (image, text) in enumerate(zip(images, TEXTS, strict=True)):
        image.save(tmp_path / f"{number}.png")
        items.append(Item(tmp_path / f"{number}.png", text, text, number, "rex", (), (tmp_path / "0.png",)))
    file = ScoreFile(tmp_path / "a.csv", tuple(items))
    configs = {name: metric_config(name) for name in ("toybox_diversity", "toybox_clip_t")}
    assert score([file], configs) == 2
    rows = [row for row in read_scores(file.csv) if row.metric == "toybox_diversity"]
    assert [(row.file, row.template, row.concept) for row in rows] == [("", "", "rex")]
    assert 0 < rows[0].value < 2
    assert len(read_scores(file.csv)) == 1 + len(TEXTS)
    assert score([file], configs) == 0


def test_weights_that_are_missing_or_hold_code_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoints/squeezenet1_1-b8a52dc0\.pth; it is published at https://down"):
        metric_of(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"a": Path("x")}, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(InputError, match="holds more than tensors") as error:
        metric_of(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="give torchvision:IMAGENET1K_V1"):
        build({**metric_config("diversity"), "checkpoint": "torchvision:OTHER"}, SetMetric)
