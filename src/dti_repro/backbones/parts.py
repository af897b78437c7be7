"""Load one model of a checkpoint: with its weights, or its shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel


def load_part(kind: type[ModelMixin | PreTrainedModel], folder: Path, dtype: torch.dtype) -> Any:
    """Return the model in this folder. Within `torch.device("meta")` it is made of its config and reads no weights."""
    of_transformers = issubclass(kind, PreTrainedModel)
    if torch.get_default_device().type != "meta":
        settings = {"dtype" if of_transformers else "torch_dtype": dtype, "local_files_only": True}
        return kind.from_pretrained(folder, **settings)
    if of_transformers:
        model = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    else:
        model = kind.from_config(kind.load_config(folder, local_files_only=True))
    return model.to(dtype)
