"""The configured model, loaded once a process, so that the jobs of a multirun and the stages of a demo share
it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import diffusers
import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from dti_repro.backbones.base import Backbone
from dti_repro.config import build
from dti_repro.errors import InputError


def load_backbone(node: DictConfig, accelerator: str = "auto") -> Backbone:
    """The backbone of a configuration's `backbone` node on its device: cpu, gpu, or auto (a GPU if there is
    one).

    The last one is kept. InputError for gpu where there is none.
    """
    device = device_of(accelerator)
    settings = OmegaConf.to_container(node, resolve=True)
    settings.pop("generation", None)  # defaults of the commands that draw, nothing of the model's
    return _load(tuple(sorted(settings.items())), device)


def device_of(accelerator: str) -> str:
    """Return torch's name of cpu, gpu, or auto (a GPU if there is one). InputError for gpu where there is none."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("a gpu was asked for, and torch sees none here")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def _load(settings: tuple[tuple[str, Any], ...], device: str) -> Backbone:
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    for library in (transformers, diffusers):  # weights that do not fit are one line of ours
        library.utils.logging.set_verbosity_error()
    return build(dict(settings), Backbone, "backbone").to(device)
