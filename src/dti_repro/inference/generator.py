"""Draw the missing images of image folders: check first what cannot be drawn, then draw in batches.

Imports no torch unless something is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import atomic_write, refuse_links, writing
from dti_repro.artifacts.lock import BusyError, locked_if_free
from dti_repro.artifacts.manifest import NAME, Manifest, ManifestImage
from dti_repro.backbones.location import located
from dti_repro.config import target
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import SAMPLING, ImageFolder
from dti_repro.launch.devices import run_on_devices

Batch = tuple[ImageFolder, Sequence[ManifestImage], Sequence[ManifestImage]]
"""A folder, the images of a batch in it, and those of them that are missing."""
LOCKS = 64
"""Folders that are locked at once: each lock is an open file and a thread, and there may be thousands of folders."""
SHOWN = 3  # prompts that are cut, by name


def draw_missing(image_folders: Sequence[ImageFolder], cfg: DictConfig) -> int:
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
        _print_cut_prompts(check_drawing(todo, cfg))
        for k in range(0, len(todo), LOCKS):
            folders = todo[k : k + LOCKS]
            locks = [(folder, folder.path / "lock", f"folder {folder.path} is being drawn") for folder in folders]
            with locked_if_free(locks, busy) as locked_folders:
                batches = []
                for image_folder in locked_folders:
                    missing = image_folder.missing()  # another process may have drawn some meanwhile
                    _remove_old_files(image_folder, missing)
                    batches += _batches(image_folder, missing, cfg.batch)
                run_on_devices(partial(_draw_batches, cfg), batches, cfg.devices, cfg.accelerator)
    except KeyboardInterrupt:
        drawn = total - sum(len(image_folder.missing()) for image_folder in todo)
        line = f"stopped: {drawn} of {total} missing images are drawn; the same command draws the others"
        raise KeyboardInterrupt(line) from None
    if busy:
        raise busy[0]
    return total


def check_drawing(image_folders: Sequence[ImageFolder], cfg: DictConfig) -> Mapping[str, str]:
    """Raise InputError for whatever cannot be drawn, as far as this can be known without a model. All are of one
    configuration.

    Return the prompts that the text encoder has no room for, where these may be cut -> the words that they lose.
    """
    for image_folder in image_folders:
        refuse_links(image_folder.path, *image_folder.path.parents[:2])
    from dti_repro.adapters.files import read_config
    from dti_repro.backbones.backbone import Backbone
    from dti_repro.backbones.base import PromptGroup
    from dti_repro.backbones.load import device_of
    from dti_repro.methods.word_files import count_vectors

    device_of(cfg.accelerator)
    backbone = target(cfg.backbone._target_, Backbone)
    checkpoint = located(cfg.backbone)
    backbone.check_generation(checkpoint, **{key: image_folders[0].settings[key] for key in SAMPLING})
    files = sorted({path for image_folder in image_folders for path in image_folder.vectors.values()})
    counts = {path: count_vectors(path) for path in files}
    for adapter in {image_folder.adapter for image_folder in image_folders} - {None}:
        read_config(adapter)
    asked = []
    for image_folder in image_folders:
        prompts = list(dict.fromkeys(image.prompt for image in image_folder.missing()))
        placeholders = {placeholder: counts[path] for placeholder, path in image_folder.vectors.items()}
        asked.append(PromptGroup(prompts, image_folder.settings["negative_prompt"], placeholders))
    lost = backbone.truncated_words(checkpoint, asked, **OmegaConf.to_container(cfg.backbone, resolve=True))
    if lost and cfg.prompts_long == "refuse":
        prompt, words = next(iter(lost.items()))
        more = f" (and {len(lost) - 1} more such prompts)" if len(lost) > 1 else ""
        raise InputError(
            f"prompt {prompt!r} is longer than the text encoder can read, which would lose '{words}'{more}: shorten "
            "it, or give prompts_long=cut"
        )
    return lost


def _batches(image_folder: ImageFolder, missing: Sequence[ManifestImage], size: int) -> Iterator[Batch]:
    """Yield the batches that have a missing image. They are the same whatever is there already, as the images of a
    batch change each other's rounding."""
    images, files = image_folder.manifest.images, {image.file for image in missing}
    for k in range(0, len(images), size):
        batch = images[k : k + size]
        if lost := [image for image in batch if image.file in files]:
            yield image_folder, batch, lost


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


def _draw_batches(cfg: DictConfig, batches: Sequence[Batch]) -> None:
    """Draw batches of images, each of one locked folder, and save what is missing of them."""
    if not batches:
        return
    import torch
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from dti_repro.adapters.files import loaded
    from dti_repro.backbones.load import load_backbone
    from dti_repro.methods.word_files import load_word

    torch.set_num_threads(cfg.threads)
    backbone = load_backbone(cfg.backbone, cfg.accelerator)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not cfg.progress) as bar:
        task = bar.add_task("drawing", total=sum(len(lost) for _, _, lost in batches))
        for folder, group in groupby(batches, key=lambda batch: batch[0].path):
            batches_of_folder = list(group)
            image_folder = batches_of_folder[0][0]
            words = {placeholder: load_word(path, backbone.spec) for placeholder, path in image_folder.vectors.items()}
            adapter = image_folder.adapter
            with loaded(backbone.denoiser, adapter) if adapter else nullcontext():
                for k, (_, images, lost) in enumerate(batches_of_folder):
                    prompts, seeds = [image.prompt for image in images], [image.seed for image in images]
                    drawn = backbone.generate(prompts, words, seeds, **image_folder.settings)
                    if k == 0:
                        image_folder.manifest.write(folder / NAME)
                    for image, pixels in zip(images, drawn, strict=True):
                        if image in lost:
                            with atomic_write(folder / image.file) as temporary:
                                pixels.save(temporary, format="PNG")
                    bar.advance(task, len(lost))
