"""Commands and the model of the untrained checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro.backbones.stable_diffusion import StableDiffusion
from tests.composed import composed


@pytest.fixture(scope="session")
def backbone(checkpoint: Path) -> StableDiffusion:
    return StableDiffusion("toybox", str(checkpoint), None)


@pytest.fixture
def compose(checkpoint: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """compose("generate", "steps=2", ...) -> the command's configuration on the untrained checkpoint."""

    own = [f"backbone.path={checkpoint}", "threads=1", "progress=false", "accelerator=cpu"]
    return lambda command, *overrides: composed(command, *own, *overrides)
