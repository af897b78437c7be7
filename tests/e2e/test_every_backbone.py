"""Every backbone of conf on a narrow checkpoint of its classes: from photos to scores, with words of several
vectors, and nothing of the model changed by a bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.embedding import load_embeddings
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.artifacts.scores import read_scores
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.load import load_backbone
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.inference.export import export
from dti_repro.launch.failures import choices
from dti_repro.optim.sphere import angle
from dti_repro.training.train_missing import train
from tests.composed import composed
from tests.crash import content, stop_after
from tests.reference.test_metrics import save_vit
from tests.tiny_backbones import SAME_CODE, tiny_backbone

WORDS = "red cat"  # two tokens of every tokenizer
OTHERS = ("ti", "crossinit", "ti_rescaled", "ti_mean_norm")  # tests/contract/test_vectors.py has those of UNets


def backbones(*slow: str, names: Sequence[str] = choices("backbone")) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]


SLOW = (*SAME_CODE, "toybox")  # on the checkpoint of stable_diffusion
FOR_OTHERS = backbones(*SLOW, "sd15")  # whose code tests/contract/test_vectors.py tests
# diffusers' pipelines of the flow models have no loader; that of sd15 is in test_generate.py
LOADED_ELSEWHERE = backbones("sd15", names=("sd15", "sd21_base", "sdxl"))


@pytest.fixture(scope="module", params=backbones(*SLOW))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Its name, and the overrides that choose it."""
    return request.param, tiny_backbone(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("subjects")
    (root / "rex").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for k, photo in enumerate(pixels):
        Image.fromarray(photo).save(root / "rex" / f"{k}.png")
    entry = {"initializer": WORDS, "split": "table", "description": "", "images": ["0.png", "1.png"]}
    (root / "subjects.yaml").write_text(yaml.safe_dump({"rex": entry}))
    return root


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("metric")
    weights = f"local-dir:{save_vit(root / 'vit', num_classes=2)}"
    encoder = {"_target_": "dti_repro.metrics.encoders.TimmEncoder.load", "checkpoint": weights}
    node = {"_target_": "dti_repro.metrics.similarity.ReferenceSimilarity", "encoder": encoder}
    (root / "likeness.yaml").write_text(yaml.safe_dump(node))
    return root / "likeness.yaml"


def generation(folder: ConceptFolder, overrides: list[str]) -> DictConfig:
    size = [key.replace("backbone.resolution", side) for key in overrides[2:3] for side in ("height", "width")]
    settings = [f"run={folder.path}", 'prompts=["a {} on the grass"]', "seeds=[0,1]", "sampler=default", "steps=2"]
    return composed("generate", *overrides, *size, *settings, "threads=1", "progress=false", "accelerator=cpu")


class Unchanged:
    """The model that is trained on, in memory and on disk, as it was before."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.backbone: Backbone = load_backbone(cfg.backbone, "cpu")
        self.weights = {key: value.clone() for key, value in self.backbone.state_dict().items()}
        self.files = fingerprint(self.backbone.folder)

    def check(self) -> None:
        assert load_backbone(self.cfg.backbone, "cpu") is self.backbone
        now: dict[str, Any] = self.backbone.state_dict()
        assert now.keys() == self.weights.keys()
        assert all(torch.equal(now[key], value) for key, value in self.weights.items())
        assert all(not p.requires_grad and p.grad is None for p in self.backbone.parameters())
        assert fingerprint(self.backbone.folder) == self.files


def check_all_vectors_train(folder: ConceptFolder, encoders: int) -> None:
    """Each of the two of each encoder turns between the first step and the last."""
    first, last = load_embeddings(folder.snapshot(1)), load_embeddings(folder.embedding)
    assert len(last) == encoders
    for name, rows in last.items():
        assert rows.shape[0] == 2
        assert angle(rows, first[name]).min() > 1e-3


def test_from_photos_to_scores(
    model: tuple[str, list[str]],
    subjects: Path,
    metric: Path,
    training: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed and resumed training writes the same bytes as an undisturbed one; its images are scored."""
    _, overrides = model
    keys = ["method=dti", *overrides, "trainer.steps=4", "trainer.checkpoint_every=1", "trainer.snapshots=[1]"]
    unchanged = Unchanged(training(*keys))
    train(training(*keys, f"runs={tmp_path / 'whole'}"))
    stop_after(monkeypatch, step=2)
    with pytest.raises(MemoryError):
        train(training(*keys))
    monkeypatch.undo()
    (folder,) = train(training(*keys))
    assert content(tmp_path / "runs") == content(tmp_path / "whole")
    check_all_vectors_train(folder, len(unchanged.backbone.spec.encoders))
    (images,) = generate(generation(folder, overrides))
    evaluate(composed("evaluate", f"concepts.root={subjects}", f"run={folder.path}", f"metrics=[{metric}]"))
    rows = read_scores(images.parents[1] / "scores" / f"{images.name}.csv")
    assert [(row.metric, row.text) for row in rows] == [("likeness", f"a {WORDS} on the grass")] * 2
    unchanged.check()


@pytest.mark.parametrize("model", FOR_OTHERS, indirect=True)
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_moves_all_vectors_and_nothing_else(
    method: str, model: tuple[str, list[str]], training: Callable[..., DictConfig]
) -> None:
    cfg = training(f"method={method}", *model[1], "trainer.steps=2", "trainer.snapshots=[1]")
    unchanged = Unchanged(cfg)
    (folder,) = train(cfg)
    check_all_vectors_train(folder, len(unchanged.backbone.spec.encoders))
    unchanged.check()


@pytest.mark.parametrize("model", LOADED_ELSEWHERE, indirect=True)
def test_the_same_image_in_diffusers(
    model: tuple[str, list[str]], training: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the calls in the text that comes with an export; each of the two vectors is used once."""
    name, overrides = model
    (folder,) = train(training("method=dti", *overrides, "trainer.steps=3"))
    (images,) = generate(generation(folder, overrides))
    *_, text = export(composed("export", f"run={folder.path}", "to=diffusers", f"out={tmp_path / 'out'}"))
    path = composed("train", f"backbone={name}").backbone.path
    checkpoint = overrides[1].partition("=")[2]
    monkeypatch.chdir(text.parent)
    scope: dict[str, Any] = {}
    exec(text.read_text().replace(repr(path), repr(checkpoint)), scope)
    pipeline = scope["pipeline"]
    pipeline.set_progress_bar_config(disable=True)
    defaults = composed("train", f"backbone={name}").backbone.generation
    theirs = pipeline(
        "a <rex> on the grass",
        num_inference_steps=2,
        guidance_scale=defaults.guidance,
        height=16,
        width=16,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    with Image.open(images / "p000_s1.png") as ours:
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
