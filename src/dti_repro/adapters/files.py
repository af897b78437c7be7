"""An adapter's files in peft's format: written as a whole, and read as data from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
NUMBERS = ("r", "lora_alpha", "oft_block_size")
"""With target_modules, what decides which weights there are and how they act. All else that peft can configure stays at
its default, as some of it imports modules or loads files by name."""
MAX_NUMBER = 4096
WITHOUT_EFFECT = ("auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "init_weights")
WITHOUT_EFFECT += ("peft_type", "peft_version", "revision", "task_type")
"""Keys of a configuration that do nothing to weights that are read from a file."""


@contextmanager
def attached(denoiser: nn.Module, config: PeftConfig, what: str, seed: int = 0) -> Iterator[PeftModel]:
    """Put an adapter on the denoiser's layers; at the exit they are as they were, also if only some of them took it.
    seed: of its weights, until others are loaded. InputError, which begins with `what`, if no layer is a target, or if
    a target's kind or size does not fit."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # peft draws from the CPU's
            warnings.filterwarnings("error", "Invalid `(r|oft_block_size)`")  # peft would take another number
            try:
                model = PeftModel(denoiser, config)
            except (ValueError, TypeError, UserWarning) as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{what} does not fit {type(denoiser).__name__}: {reason}") from error
        yield model
    finally:
        for name, module in list(denoiser.named_modules()):
            if isinstance(module, BaseTunerLayer):
                denoiser.set_submodule(name, module.get_base_layer())
        vars(denoiser).pop("peft_config", None)


def weights_of(model: PeftModel) -> dict[str, Tensor]:
    """Return the weights by their names in peft's files."""
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def save_weights(folder: Path, model: PeftModel) -> None:
    """Write peft's two files. Equal weights are equal bytes."""
    config = model.active_peft_config.to_dict() | {"inference_mode": True, "base_model_name_or_path": None}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_json(folder / CONFIG, plain)
    write_tensors(folder / WEIGHTS, weights_of(model), {"format": "pt"})


@contextmanager
def loaded(denoiser: nn.Module, folder: Path) -> Iterator[None]:
    """Put the adapter of this folder on the denoiser; at the exit take it off. InputError, which names the file, for
    anything but a whole LoRA or OFT that fits the denoiser."""
    with attached(denoiser, read_config(folder), f"adapter {folder}") as model:
        set_peft_model_state_dict(model, _read_weights(folder / WEIGHTS, weights_of(model)))
        yield


def read_config(folder: Path) -> PeftConfig:
    """Return the configuration of the adapter in this folder. InputError, which names the file, for an adapter of
    another type, or with settings that none of ours has."""
    path = folder / CONFIG
    content = read_json(path, "put back the one that was saved with the adapter")
    if content.get("peft_type") not in TYPES:
        raise InputError(
            f"{path}: adapters of peft_type {', '.join(TYPES)} are taken, not {content.get('peft_type')!r}"
        )
    targets = check_value(content.get("target_modules"), Targets, f"{path}: target_modules")
    numbers = {key: content[key] for key in NUMBERS if key in content}
    for key, value in numbers.items():
        kinds = (int, float) if key == "lora_alpha" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= MAX_NUMBER:
            raise InputError(f"{path}: {key} is {value!r:.60}: a number from 0 to {MAX_NUMBER} is needed")
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(content["peft_type"])](**numbers, target_modules=targets)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is no adapter's configuration: {' '.join(str(error).split())}") from error
    defaults = config.to_dict()
    for key in content.keys() - {*NUMBERS, "target_modules", *WITHOUT_EFFECT}:
        if key not in defaults or content[key] != defaults[key]:
            raise InputError(f"{path}: {key} is {str(content[key])[:40]!r}: only peft's default is taken")
    return config


def _read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's weights. Their names and shapes are compared before any weight is read."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(shapes.keys() ^ expected.keys()):
                what = "has no" if name in expected else "has a"
                raise InputError(f"{path} {what} {name[:120]}: it is not of this backbone or this configuration")
            for name, shape in shapes.items():
                if shape != tuple(expected[name].shape):
                    raise InputError(f"{path}: {name[:120]} is {shape}, {tuple(expected[name].shape)} is needed")
            weights = {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file (pickles are never loaded): {error}") from error
    for name, rows in weights.items():
        if not rows.is_floating_point() or not bool(torch.isfinite(rows).all()):
            raise InputError(f"{path}: {name[:120]} holds numbers that are not finite")
    return weights
