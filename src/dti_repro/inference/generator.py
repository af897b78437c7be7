"""Draw the missing images of image folders: check first what cannot be drawn, then draw in batches.

Imports no torch unless something is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import atomic_write, refuse_links, writing
from dti_repro.artifacts.lock import BusyError, locked_if_free
from dti_repro.artifacts.manifest import NAME, Manifest, ManifestImage
from dti_repro.backbones.location import located
from dti_repro.config import target
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder
from dti_repro.launch.devices import run_on_devices

if TYPE_CHECKING:
    from torch import nn

Marked = list[tuple[ManifestImage, bool]]
"""The images of a batch, each with whether it is missing."""
LOCKS = 64
"""Folders that are locked at once: each lock is an open file and a thread, and there may be thousands of folders."""
SHOWN = 3  # prompts that are cut, by name


def draw_missing(image_folders: Sequence[ImageFolder], cfg: DictConfig, settings: GenerationConfig) -> int:
    """Draw what is missing in the image folders; return the number of these images, 0 without importing torch.

    All that can be checked without a model is checked before it is loaded. A manifest is written with its folder's
    first images, so that a refused drawing leaves none. InputError for what does not fit; BusyError, when all others
    are drawn, for a folder that another process draws; KeyboardInterrupt that says how many images are drawn. Where all
    is drawn and a prompt's text or expectation was corrected since, the manifest is written again.
    """
    todo = []
    for image_folder in {image_folder.path: image_folder for image_folder in image_folders}.values():
        file = image_folder.path / NAME
        if image_folder.missing():
            todo.append(image_folder)
        elif Manifest.read(file) != image_folder.manifest:
            refuse_links(image_folder.path, *image_folder.path.parents[:2])
            image_folder.manifest.write(file)
    if not todo:
        return 0
    total = sum(len(image_folder.missing()) for image_folder in todo)
    busy: list[BusyError] = []
    try:
        _print_cut_prompts(check_drawing(todo, cfg, settings))
        for k in range(0, len(todo), LOCKS):
            folders = todo[k : k + LOCKS]
            locks = [(folder, folder.path / "lock", f"folder {folder.path} is being drawn") for folder in folders]
            with locked_if_free(locks, busy) as locked_folders:
                batches = []
                for image_folder in locked_folders:
                    missing = image_folder.missing()  # another process may have drawn some meanwhile
                    _remove_old_files(image_folder, missing)
                    batches += [(image_folder, images) for images in _batches(image_folder, missing, cfg.batch)]
                run_on_devices(partial(_draw_batches, cfg, settings), batches, cfg.devices, cfg.accelerator)
    except KeyboardInterrupt:
        drawn = total - sum(len(image_folder.missing()) for image_folder in todo)
        line = f"stopped: {drawn} of {total} missing images are drawn; the same command draws the others"
        raise KeyboardInterrupt(line) from None
    if busy:
        raise busy[0]
    return total


def check_drawing(
    image_folders: Sequence[ImageFolder], cfg: DictConfig, settings: GenerationConfig
) -> Mapping[str, str]:
    """Raise InputError for whatever cannot be drawn, as far as this can be known without a model.

    Return the prompts that the text encoder has no room for, where these may be cut -> the words that they lose.
    """
    for image_folder in image_folders:
        refuse_links(image_folder.path, *image_folder.path.parents[:2])
    from dti_repro.backbones.backbone import Backbone
    from dti_repro.backbones.base import PromptGroup
    from dti_repro.backbones.load import device_of
    from dti_repro.methods.word_files import count_vectors

    device_of(cfg.accelerator)
    backbone = target(cfg.backbone._target_, Backbone)
    checkpoint = located(cfg.backbone)
    backbone.check_generation(checkpoint, **settings.sampling)
    files = sorted({path for image_folder in image_folders for path in image_folder.vectors.values()})
    counts = {path: count_vectors(path) for path in files}
    for adapter in {image_folder.adapter for image_folder in image_folders} - {None}:
        from dti_repro.adapters.files import read_config  # peft takes a second

        read_config(adapter)
    asked = []
    for image_folder in image_folders:
        prompts = list(dict.fromkeys(image.prompt for image in image_folder.missing()))
        placeholders = {placeholder: counts[path] for placeholder, path in image_folder.vectors.items()}
        asked.append(PromptGroup(prompts, image_folder.negative_prompt, placeholders))
    lost = backbone.truncated_words(checkpoint, asked, **OmegaConf.to_container(cfg.backbone, resolve=True))
    if lost and cfg.prompts_long == "refuse":
        prompt, words = next(iter(lost.items()))
        more = f" (and {len(lost) - 1} more such prompts)" if len(lost) > 1 else ""
        raise InputError(
            f"prompt {prompt!r} is longer than the text encoder can read, which would lose '{words}'{more}: shorten "
            "it, or give prompts_long=cut"
        )
    return lost


def _batches(image_folder: ImageFolder, missing: Sequence[ManifestImage], size: int) -> Iterator[Marked]:
    """Yield the batches that have a missing image, each image with whether it is missing. They are the same whatever is
    there already, as the images of a batch change each other's rounding."""
    images, lost = image_folder.manifest.images, {image.file for image in missing}
    for k in range(0, len(images), size):
        batch = [(image, image.file in lost) for image in images[k : k + size]]
        if any(is_missing for _, is_missing in batch):
            yield batch


def _print_cut_prompts(lost: Mapping[str, str]) -> None:
    for prompt, words in list(lost.items())[:SHOWN]:
        print(f"prompt {prompt!r} is cut: '{words}' is lost")
    if len(lost) > SHOWN:
        print(f"{len(lost) - SHOWN} more prompts are cut")


def _remove_old_files(image_folder: ImageFolder, missing: Sequence[ManifestImage]) -> None:
    manifest = image_folder.path / NAME
    with writing(manifest):
        if len(missing) == len(image_folder.manifest.images):  # the old manifest describes none of them
            manifest.unlink(missing_ok=True)
        for image in missing:  # an image of other settings, which the new manifest would claim
            (image_folder.path / image.file).unlink(missing_ok=True)


def _draw_batches(cfg: DictConfig, settings: GenerationConfig, batches: Sequence[tuple[ImageFolder, Marked]]) -> None:
    """Draw batches of images, each of one locked folder, and save what is missing of them."""
    if not batches:
        return
    import torch
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from dti_repro.backbones.load import load_backbone
    from dti_repro.methods.word_files import load_word

    torch.set_num_threads(cfg.threads)
    backbone = load_backbone(cfg.backbone, cfg.accelerator)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not cfg.progress) as bar:
        task = bar.add_task("drawing", total=sum(_count_missing(images) for _, images in batches))
        for folder, group in groupby(batches, key=lambda batch: batch[0].path):
            batches_of_folder = list(group)
            image_folder = batches_of_folder[0][0]
            words = {placeholder: load_word(path, backbone.spec) for placeholder, path in image_folder.vectors.items()}
            with _adapted(backbone.denoiser, image_folder.adapter):
                for k, (_, images) in enumerate(batches_of_folder):
                    drawn = backbone.generate(
                        [image.prompt for image, _ in images],
                        words,
                        [image.seed for image, _ in images],
                        guidance=settings.guidance,
                        negative_prompt=image_folder.negative_prompt,
                        **settings.sampling,
                    )
                    if k == 0:
                        image_folder.manifest.write(folder / NAME)
                    for (image, is_missing), pixels in zip(images, drawn, strict=True):
                        if is_missing:
                            with atomic_write(folder / image.file) as temporary:
                                pixels.save(temporary, format="PNG")
                    bar.advance(task, _count_missing(images))


def _count_missing(images: Marked) -> int:
    return sum(is_missing for _, is_missing in images)


def _adapted(denoiser: nn.Module, folder: Path | None) -> AbstractContextManager[None]:
    """Put the adapter of this folder, if any, on the denoiser; at the exit take it off."""
    if folder is None:
        return nullcontext()
    from dti_repro.adapters.files import loaded

    return loaded(denoiser, folder)
