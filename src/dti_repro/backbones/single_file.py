"""A checkpoint of Stable Diffusion in one .safetensors file, as other programs keep it.

It is converted once to a folder in diffusers' format. Configurations and tokenizers, which such a file lacks, come from
another checkpoint of its kind.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from dti_repro.artifacts.files import user_path
from dti_repro.backbones.checkpoint import (
    CONFIGS,
    CONVERTED,
    loading,
    model_index,
    update_with_file,
    update_with_folder,
)
from dti_repro.backbones.hub import NO_WEIGHTS, cached, download, is_id
from dti_repro.backbones.local_cache import cache_folder, create_once
from dti_repro.errors import InputError, one_line

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
UNET = "model.diffusion_model."
KINDS = {"conditioner.embedders.1.": "StableDiffusionXLPipeline", "cond_stage_model.": "StableDiffusionPipeline"}
"""The beginning of a text encoder's keys -> the class of the pipeline."""
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
CLASSES = {
    "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer", "CLIPTokenizerFast"),
    "diffusers": ("UNet2DConditionModel", "AutoencoderKL"),
}
"""Library -> its classes that a part of the configurations may have, besides schedulers. diffusers imports whatever
module a part names."""


def is_single_file(path: str | None) -> bool:
    """Return whether a backbone's path names a file."""
    return path is not None and Path(path).suffix in SUFFIXES and not user_path(path).is_dir()


def kind_of(file: Path) -> str:
    """Return diffusers' class of pipeline for a single file. InputError for one that is no whole Stable Diffusion."""
    keys = _dtypes(file)
    kind = next((kind for start, kind in KINDS.items() if any(key.startswith(start) for key in keys)), None)
    if kind is None or not any(key.startswith(UNET) for key in keys):
        raise InputError(
            f"backbone.path {file} holds no whole checkpoint of Stable Diffusion 1.x, 2.x or XL, with text encoder and "
            "UNet: a LoRA, a VAE or a UNet alone cannot be trained on"
        )
    return kind


def converted(path: str, config: str | None, make: bool) -> Path | None:
    """Return the folder that a single file is converted to, by diffusers; None if it is not yet there and not to be
    made. config: a folder in diffusers' format, or an id on the Hub, that has the configurations and tokenizers of the
    same kind of model; no weights of it are read. InputError for a file or a config that cannot be used."""
    file = user_path(path).absolute()
    if not file.is_file():
        raise InputError(f"backbone.path {file} does not exist")
    if file.suffix != ".safetensors":
        raise InputError(f"backbone.path {file} is a pickle or of another program: a .safetensors file is needed")
    kind = kind_of(file) if make else None  # before anything is downloaded
    configs = _configs(file, config, fetch=make)
    if configs is None:
        return None
    digest = hashlib.sha256(f"{file.stat().st_size}\0".encode())
    update_with_file(digest, file)
    update_with_folder(digest, configs, CONFIGS)
    target = cache_folder(CONVERTED, digest.hexdigest())
    if not make:
        return target if target.is_dir() else None
    if (other := model_index(configs).get("_class_name")) != kind:
        raise InputError(f"backbone.config {config} is for a {other}, and {file} is a {kind}")
    _check_classes(configs)

    def write(folder: Path) -> None:
        import diffusers
        import torch

        print(one_line(f"{file}: converted once, to {target}"), file=sys.stderr)
        dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
        stored = next(dtype for key, dtype in _dtypes(file).items() if key.startswith(UNET))
        options = {"local_files_only": True, "torch_dtype": dtypes.get(stored, torch.float32)}
        with loading(file, "the checkpoint"):
            pipeline = getattr(diffusers, kind).from_single_file(
                str(file), config=str(configs), **options, **dict.fromkeys(UNUSED)
            )
            pipeline.save_pretrained(folder)

    return create_once(target, write)


def _check_classes(configs: Path) -> None:
    """Raise InputError for a part whose class is none of those that such a model has."""
    for part, named in model_index(configs).items():
        if part.startswith("_") or part in UNUSED or named is None or type(named) is bool or named == [None, None]:
            continue
        is_pair = isinstance(named, list) and len(named) == 2 and all(isinstance(word, str) for word in named)
        library, name = named if is_pair else ("", "")
        is_scheduler = part == "scheduler" and library == "diffusers" and name.isidentifier()
        if not (is_scheduler and name.endswith("Scheduler")) and name not in CLASSES.get(library, ()):
            raise InputError(f"backbone.config {configs}: {part} is {named}, which is not loaded")


def _configs(file: Path, config: str | None, fetch: bool) -> Path | None:
    """Return the folder of the configurations; None if it is not in the cache and not to be fetched."""
    if config is None:
        raise InputError(
            f"backbone.path {file} is a single file, without configurations and tokenizers: add backbone.config=<a "
            "folder in diffusers' format, or an id on the Hub, of a model of the same kind>"
        )
    folder = user_path(config)
    if folder.is_dir():
        return folder.absolute()
    if not is_id(config):
        raise InputError(f"backbone.config {config} does not exist")
    found = cached(config, "main", NO_WEIGHTS)
    if found is not None and (found / "model_index.json").is_file():
        return found
    try:
        return download(config, "main", NO_WEIGHTS) if fetch else None
    except InputError as error:
        raise InputError(
            f"backbone.config {config}, which {file.name} needs for its configurations and tokenizers: "
            + str(error).replace("backbone.path", "the folder of")
        ) from error


def _dtypes(file: Path) -> dict[str, str]:
    """Return key -> type of the tensors, from the file's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as content:
            return {key: content.get_slice(key).get_dtype() for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"backbone.path {file} cannot be read ({error}): copy it again") from error
