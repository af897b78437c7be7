"""Copy what a command made to W&B or TensorBoard: its configuration, numbers, pictures and tables.

The files that the command writes stay the source. Nothing is imported for logger=none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from dti_repro.artifacts.run_dir import NAME_LENGTH
from dti_repro.config import build
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

PACKAGES = {"TensorBoardLogger": ("tensorboard", "tensorboardX"), "WandbLogger": ("wandb",)}
MAX_IMAGES = 64  # of one key: more make a page slow, and are in the run folder


class Tracker:
    """What takes numbers, pictures and tables; without a logger they go nowhere."""

    def __init__(self, logger: Logger | None) -> None:
        self.logger = logger
        self._is_wandb = type(logger).__name__ == "WandbLogger"
        self._is_tensorboard = type(logger).__name__ == "TensorBoardLogger"

    def numbers(self, values: Mapping[str, float], step: int = 0) -> None:
        if self.logger is not None and values:
            self.logger.log_metrics(dict(values), step=step)

    def images(self, key: str, images: Mapping[str, Path | Image.Image], step: int = 0) -> None:
        """Take pictures by caption, of which MAX_IMAGES are shown."""
        shown = dict(list(images.items())[:MAX_IMAGES])
        if self._is_wandb and shown:
            pictures = [str(image) if isinstance(image, Path) else image for image in shown.values()]
            self.logger.log_image(key, pictures, step, caption=list(shown))
        if self._is_tensorboard:
            import numpy as np

            for caption, image in shown.items():
                picture = Image.open(image) if isinstance(image, Path) else image
                pixels = np.asarray(picture.convert("RGB"))
                self.logger.experiment.add_image(f"{key}/{caption}", pixels, step, dataformats="HWC")

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], markdown: str) -> None:
        """Take a table; markdown: the same as text, which TensorBoard shows."""
        if self._is_wandb:
            self.logger.log_table(key, list(columns), [list(row) for row in rows])
        if self._is_tensorboard:
            self.logger.experiment.add_text(key, markdown)


@contextmanager
def tracking(cfg: DictConfig, command: str, *words: str) -> Iterator[Tracker]:
    """Yield the tracker of a command's configuration, and finish its run, which is called `<command>_<words>`.

    A name that the logger's yaml or an override gives is kept. InputError for settings that the logger does not take.
    """
    kind = cfg.logger._target_.rpartition(".")[2]
    if kind == "DummyLogger":
        yield Tracker(None)
        return
    from pytorch_lightning.loggers import Logger

    name = "_".join((command, *words))[:NAME_LENGTH]
    # TensorBoard's version is the name of its folder.
    named = {"TensorBoardLogger": {"version": name}, "WandbLogger": {"name": name, "job_type": command}}
    node = named.get(kind, {}) | OmegaConf.to_container(cfg.logger, resolve=True)
    tracker = Tracker(build(node, Logger, "logger"))
    keys = [key for key in cfg if key not in ("hydra", "sets")]
    tracker.logger.log_hyperparams(OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True))
    try:
        yield tracker
    finally:
        tracker.logger.finalize("success")
        if kind == "WandbLogger":  # or the next logger of this process would go on with this run
            tracker.logger.experiment.finish()


def check_logger(cfg: DictConfig) -> None:
    """Raise InputError for a logger whose package is not installed, before the work that it shall show."""
    packages = PACKAGES.get(cfg.logger._target_.rpartition(".")[2], ())
    if packages and not any(map(find_spec, packages)):
        raise InputError(f"logger: {packages[0]} is not installed: pip install {packages[0]}, or give logger=none")


def run_label(names: Sequence[str], shown: int = 3) -> str:
    """Return `cat+dog`, or `cat+dog+fish+5more` for many names."""
    more = [f"{len(names) - shown}more"] if len(names) > shown else []
    return "+".join([*names[:shown], *more])
