"""An adapter's files in peft's format: written whole, and read as data from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dti_repro.adapters.folder import CONFIG, WEIGHTS
from dti_repro.artifacts.embedding import write_tensors
from dti_repro.artifacts.files import read_json, write_json
from dti_repro.config.values import Targets, check_value
from dti_repro.errors import InputError

TYPES = ("LORA", "OFT")
SHAPE = ("r", "lora_alpha", "oft_block_size", "target_modules")
"""What decides which weights there are and how they act; whatever else peft can configure stays at its default, as some
of it imports modules or loads files by name."""
MAX_SIZE = 4096
"""Of the numbers among them."""
WITHOUT_EFFECT = ("auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "init_weights")
WITHOUT_EFFECT += ("peft_type", "peft_version", "revision", "task_type")
"""On the weights of a file that is read."""


@contextmanager
def attached(denoiser: nn.Module, config: PeftConfig, what: str) -> Iterator[PeftModel]:
    """Within it the denoiser's layers have the adapter, afterwards they are as they were, also if only some of them
    would take it. InputError, which says what does not fit, if none of its layers is a target, or one is not of a kind
    or size that the adapter takes."""
    try:
        yield _attach(denoiser, config, what)
    finally:
        for name, module in list(denoiser.named_modules()):
            if isinstance(module, BaseTunerLayer):
                denoiser.set_submodule(name, module.get_base_layer())
        vars(denoiser).pop("peft_config", None)


def _attach(denoiser: nn.Module, config: PeftConfig, what: str) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Invalid `(r|oft_block_size)`")  # peft would take another number
        try:
            return PeftModel(denoiser, config)
        except (ValueError, TypeError, UserWarning) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{what} does not fit {type(denoiser).__name__}: {why}") from error


def weights_of(model: PeftModel) -> dict[str, Tensor]:
    """Name in peft's files -> weight."""
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def save_weights(folder: Path, model: PeftModel) -> None:
    """Equal weights are equal bytes."""
    config = model.active_peft_config.to_dict() | {"inference_mode": True, "base_model_name_or_path": None}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_json(folder / CONFIG, plain)
    write_tensors(folder / WEIGHTS, weights_of(model), {"format": "pt"})


@contextmanager
def loaded(denoiser: nn.Module, folder: Path) -> Iterator[None]:
    """Within it the denoiser has the adapter of this folder, afterwards it is as it was. InputError, naming the file,
    for anything but a whole LoRA or OFT that fits it."""
    with attached(denoiser, read_config(folder), f"adapter {folder}") as model:
        set_peft_model_state_dict(model, _read_weights(folder / WEIGHTS, weights_of(model)))
        yield


def read_config(folder: Path) -> PeftConfig:
    """InputError, naming the file, for an adapter of another type or with settings that none of ours has."""
    path = folder / CONFIG
    content = read_json(path, "put back the one that was saved with the adapter")
    if content.get("peft_type") not in TYPES:
        raise InputError(
            f"{path}: adapters of peft_type {', '.join(TYPES)} are taken, not {content.get('peft_type')!r}"
        )
    check_value(content.get("target_modules"), Targets, f"{path}: target_modules")
    numbers = {key: content[key] for key in SHAPE[:-1] if key in content}
    for key, value in numbers.items():
        kinds = (int, float) if key == "lora_alpha" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= MAX_SIZE:
            raise InputError(f"{path}: {key} is {value!r:.60}, which is none up to {MAX_SIZE}")
    try:
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(content["peft_type"])]
        config = kind(**numbers, target_modules=content["target_modules"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is no adapter's configuration: {' '.join(str(error).split())}") from error
    _check_defaults(path, content, config.to_dict())
    return config


def _check_defaults(path: Path, content: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    for key in content.keys() - {*SHAPE, *WITHOUT_EFFECT}:
        if key not in usual or content[key] != usual[key]:
            raise InputError(f"{path}: {key} is {str(content[key])[:40]!r}, which is not taken here")


def _read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes are compared before any weight is read."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            expected = {name: tuple(rows.shape) for name, rows in wanted.items()}
            for name in sorted(found.keys() ^ expected.keys()):
                what = "has no" if name in expected else "has a"
                raise InputError(f"{path} {what} {name[:120]}: it is not of this backbone or this configuration")
            for name, shape in found.items():
                if shape != expected[name]:
                    raise InputError(f"{path}: {name[:120]} is {shape}, {expected[name]} is needed")
            weights = {name: file.get_tensor(name) for name in found}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file (pickles are never loaded): {error}") from error
    for name, rows in weights.items():
        if not rows.is_floating_point() or not bool(torch.isfinite(rows).all()):
            raise InputError(f"{path}: {name[:120]} holds numbers that are not finite")
    return weights
