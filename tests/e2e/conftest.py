"""What the end-to-end tests share: the real configuration composed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from dti_repro.app import CONF, quote_paths


@pytest.fixture
def compose(checkpoint: Path) -> Callable[..., DictConfig]:
    """compose("generate", "steps=2", ...) -> the command's configuration on the untrained checkpoint."""

    def composed(command: str, *overrides: str) -> DictConfig:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            backbone = [
                "backbone=stable_diffusion",
                f"backbone.path={checkpoint}",
                "threads=1",
                "progress=false",
            ]
            return hydra.compose(command, overrides=[*map(quote_paths, (*backbone, *overrides))])

    return composed
