"""What the end-to-end tests share: the real configuration composed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro.generate import generate
from tests.composed import composed
from tests.e2e.tiny_benchmark import make_world
from tests.e2e.trained import trained_run, vectors


@pytest.fixture
def compose(checkpoint: Path) -> Callable[..., DictConfig]:
    """compose("generate", "steps=2", ...) -> the command's configuration on the untrained checkpoint."""

    own = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", "threads=1", "progress=false"]
    return lambda command, *overrides: composed(command, *own, *overrides)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Three subjects, two evaluators, prompts and experiments, all tiny."""
    return make_world(tmp_path_factory.mktemp("world"), checkpoint)


@pytest.fixture
def drawn(compose: Callable[..., DictConfig], tmp_path: Path, world: Path) -> Callable[[str], DictConfig]:
    """drawn(name) -> how to evaluate a run of that name, which has its pictures."""

    def draw(name: str) -> DictConfig:
        run = trained_run(tmp_path / name, {"rex": vectors(0)})
        generate(compose("generate", f"run={run}", f"prompts={world}/prompts.yaml", "steps=1"))
        return asked(name)

    def asked(name: str) -> DictConfig:
        run = tmp_path / name / "stable_diffusion" / "ti" / "0123456789"
        metrics = f"metrics=[{world}/image.yaml,{world}/text.yaml]"
        return composed("evaluate", f"run={run}", metrics, "accelerator=cpu", f"concepts.root={world}/subjects")

    return lambda name: asked(name) if (tmp_path / name).exists() else draw(name)
