"""Load the configured backbone once in a process, so that the jobs of a multirun and the stages of a demo share it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dti_repro.backbones.backbone import Backbone
from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.launch.garbage import collect_as_usual


def load_backbone(node: DictConfig, accelerator: str = "auto") -> Backbone:
    """Return the backbone of a configuration's `backbone` node on its device; the last one is kept. accelerator: as in
    `device_of`."""
    settings = OmegaConf.to_container(node, resolve=True)
    settings.pop("generation", None)  # defaults of `generate`, which are no keys of the constructor
    backbone = _load(tuple(sorted(settings.items())), device_of(accelerator))
    collect_as_usual()
    return backbone


def device_of(accelerator: str) -> str:
    """Return torch's name of cpu, gpu, or auto (a GPU if there is one). InputError for gpu if there is none."""
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise InputError("accelerator=gpu, and torch finds no GPU here: use accelerator=cpu")
    return "cuda" if accelerator != "cpu" and has_gpu else "cpu"


@lru_cache(maxsize=1)
def _load(settings: tuple[tuple[str, Any], ...], device: str) -> Backbone:
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()  # weights that do not fit are one line of ours
    return build(dict(settings), Backbone, "backbone").to(device)
