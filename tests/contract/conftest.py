"""Commands on the untrained checkpoint."""

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from dti_repro.config import CONF
from dti_repro.launch.command_line import quote_paths


@pytest.fixture
def compose(checkpoint: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """compose("generate", "steps=2", ...) -> the command's configuration on the untrained checkpoint."""

    def composed(command: str, *overrides: str) -> DictConfig:
        own = [f"backbone.path={checkpoint}", "threads=1", "progress=false", "accelerator=cpu"]
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            return hydra.compose(command, overrides=[*map(quote_paths, (*own, *overrides))])

    return composed
