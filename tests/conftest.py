"""What all tests share: an untrained checkpoint, subjects of noise, the training's real configuration shrunk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from PIL import Image

from dti_repro.config import validate
from tests.composed import composed
from tests.tiny import build_tiny_sd

SUBJECTS = {"ann": "cat", "bob": "car", "cid": "cat"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """A command sets how many threads its process has: two of each worker wait for each other, and cannot be forked."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sd(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the toybox's: ann, bob and cid, three pictures of noise each."""
    root = tmp_path_factory.mktemp("subjects")
    random = np.random.default_rng(0)
    index = {}
    for name, initializer in SUBJECTS.items():
        (root / name).mkdir()
        images = [f"{k}.png" for k in range(3)]
        for image in images:
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / image)
        index[name] = {"initializer": initializer, "split": "table", "description": "", "images": images}
    (root / "subjects.yaml").write_text(yaml.safe_dump(index))
    return root


@pytest.fixture(scope="module")
def short_training(checkpoint: Path, subjects: Path) -> Callable[..., DictConfig]:
    """short_training("method=ti", ...) -> the configuration of `python -m dti_repro.train` with these overrides."""
    small = [f"backbone.path={checkpoint}", f"concepts.root={subjects}", "trainer.steps=6", "trainer.batch=2"]
    small += ["trainer.threads=1", "trainer.progress=false", "trainer.accelerator=cpu"]
    return lambda *overrides: composed("train", *small, *overrides)


@pytest.fixture
def training(short_training: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., DictConfig]:
    """The same, with runs in the test's own folder."""
    return lambda *overrides: short_training(f"runs={tmp_path / 'runs'}", *overrides)


@pytest.fixture
def composed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let experiments compose their rows as the tests do: they have hundreds, of a few choices."""

    def config(command: str, overrides: tuple[str, ...]) -> DictConfig:
        cfg = composed(command, *overrides)
        validate(command, cfg)
        return cfg

    monkeypatch.setattr("dti_repro.experiments.configs._compose", cache(config))


@pytest.fixture
def of_photos(training: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """of_photos(folder, "method=ti", ..., name="rex") -> the same on the photos of a folder."""

    def compose(folder: Path, *overrides: str, **concept: str) -> DictConfig:
        cfg = training(*overrides)
        node = {"_target_": "dti_repro.data.concept.Folder", "path": str(folder), "initializer": "cat"}
        cfg.concepts = {**node, **concept}
        return cfg

    return compose
