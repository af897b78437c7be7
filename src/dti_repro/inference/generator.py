"""Drawing the pictures that are missing: what can refuse them, and the loop that draws them in batches.

Imports no torch before something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapted, check_adapters
from dti_repro.artifacts.files import atomic_write, refuse_links, writing
from dti_repro.artifacts.lock import BusyError, locked
from dti_repro.artifacts.manifest import NAME, ManifestImage
from dti_repro.backbones.checkpoint import locate
from dti_repro.config import target
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder
from dti_repro.launch.devices import run_on_devices

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dti_repro.backbones.base import Backbone

LOCKS = 64
"""Folders that are locked at once: each holds an open file and a thread, and there may be thousands."""
SHOWN = 3  # prompts that are cut, by name


def draw(image_folders: Sequence[ImageFolder], cfg: DictConfig, settings: GenerationConfig) -> int:
    """Draw what is missing in the image_folders; returns how many pictures that was, 0 without importing torch.

    All that can be judged without a model is judged before it is loaded. A manifest is written with its folder's
    first pictures, so that a refused drawing leaves none. Raises InputError for what does not fit; BusyError, when all
    others are drawn, for an image folder that another process is at; KeyboardInterrupt that says how many are drawn.
    """
    todo = list({image_folder.path: image_folder for image_folder in image_folders if image_folder.missing()}.values())
    if not todo:
        return 0
    total = sum(len(image_folder.missing()) for image_folder in todo)
    busy: list[BusyError] = []
    try:
        _judge(todo, cfg, settings)
        for k in range(0, len(todo), LOCKS):
            with _owned(todo[k : k + LOCKS], busy) as ours:
                batches = [
                    (image_folder, pictures) for image_folder in ours for pictures in _batches(image_folder, cfg.batch)
                ]
                run_on_devices(partial(_draw_batches, cfg, settings), batches, cfg.devices, cfg.accelerator)
    except KeyboardInterrupt:
        there = total - sum(len(image_folder.missing()) for image_folder in todo)
        line = f"stopped: {there} of {total} missing images are drawn; the same command draws the others"
        raise KeyboardInterrupt(line) from None
    if busy:
        raise busy[0]
    return total


def _judge(image_folders: Sequence[ImageFolder], cfg: DictConfig, settings: GenerationConfig) -> None:
    """InputError for whatever cannot be drawn, as far as this can be known without a model."""
    for image_folder in image_folders:
        refuse_links(image_folder.path, *image_folder.path.parents[:2])
    from dti_repro.artifacts.embedding import load_embeddings
    from dti_repro.backbones.base import Asked, Backbone
    from dti_repro.backbones.load import device_of

    device_of(cfg.accelerator)
    backbone = target(cfg.backbone._target_, Backbone)
    checkpoint = locate(cfg.backbone.path, cfg.backbone.revision)
    backbone.check_drawing(
        checkpoint,
        steps=settings.steps,
        sampler=settings.sampler,
        sampler_options=settings.sampler_options,
        height=settings.height,
        width=settings.width,
    )
    files = sorted({path for image_folder in image_folders for path in image_folder.vectors.values()})
    counts = {path: len(next(iter(load_embeddings(path).values()))) for path in files}
    check_adapters({image_folder.adapter for image_folder in image_folders} - {None})
    asked = []
    for image_folder in image_folders:
        prompts = list(dict.fromkeys(picture.prompt for picture in image_folder.missing()))
        placeholders = {placeholder: counts[path] for placeholder, path in image_folder.vectors.items()}
        asked.append(Asked(prompts, image_folder.negative_prompt, placeholders))
    lost = backbone.lost_words(checkpoint, asked, **OmegaConf.to_container(cfg.backbone, resolve=True))
    _say_lost(lost, cfg.prompts_long)


def _say_lost(lost: Mapping[str, str], prompts_long: str) -> None:
    """InputError if prompts may not be cut, or a line for each that is."""
    if lost and prompts_long == "refuse":
        prompt, words = next(iter(lost.items()))
        more = f" (and {len(lost) - 1} more such prompts)" if len(lost) > 1 else ""
        raise InputError(
            f"prompt {prompt!r} is longer than the text encoder can read, which would lose '{words}'{more}: shorten "
            "it, or give prompts_long=cut"
        )
    for prompt, words in list(lost.items())[:SHOWN]:
        print(f"prompt {prompt!r} is cut: '{words}' is lost")
    if len(lost) > SHOWN:
        print(f"{len(lost) - SHOWN} more prompts are cut")


@contextmanager
def _owned(image_folders: Sequence[ImageFolder], busy: list[BusyError]) -> Iterator[list[ImageFolder]]:
    """Lock the image_folders' folders and clear them; those that another process is at go to `busy`."""
    with ExitStack() as stack:
        ours = []
        for image_folder in image_folders:
            try:
                stack.enter_context(locked(image_folder.path / "lock", f"folder {image_folder.path} is being drawn"))
            except BusyError as error:
                busy.append(error)
                continue
            ours.append(image_folder)
            if pictures := image_folder.missing():  # another process may have drawn them meanwhile
                _clear(image_folder, pictures)
        yield ours


def _batches(image_folder: ImageFolder, size: int) -> list[list[ManifestImage]]:
    pictures = image_folder.missing()
    return [pictures[k : k + size] for k in range(0, len(pictures), size)]


def _draw_batches(
    cfg: DictConfig, settings: GenerationConfig, batches: Sequence[tuple[ImageFolder, list[ManifestImage]]]
) -> None:
    """Draw pictures of image_folders whose folders are locked and cleared."""
    if not batches:
        return
    import torch

    from dti_repro.artifacts.embedding import for_encoders, load_embeddings
    from dti_repro.backbones.load import load_backbone

    torch.set_num_threads(cfg.threads)
    backbone = load_backbone(cfg.backbone, cfg.accelerator)
    with _progress(sum(len(pictures) for _, pictures in batches), cfg.progress) as advance:
        for folder, group in groupby(batches, key=lambda batch: batch[0].path):
            own = list(group)
            image_folder = own[0][0]
            learned = {
                placeholder: for_encoders(load_embeddings(path), backbone.spec, path)
                for placeholder, path in image_folder.vectors.items()
            }
            with adapted(backbone.denoiser, image_folder.adapter):
                for k, (_, pictures) in enumerate(own):
                    images = _draw_batch(backbone, image_folder, pictures, learned, settings)
                    if k == 0:
                        image_folder.manifest.write(folder / NAME)
                    for picture, image in zip(pictures, images, strict=True):
                        with atomic_write(folder / picture.file) as temporary:
                            image.save(temporary, format="PNG")
                    advance(len(pictures))


def _clear(image_folder: ImageFolder, pictures: Sequence[ManifestImage]) -> None:
    """Remove what does not belong here any more, before a manifest can vouch for it."""
    with writing(image_folder.path / NAME):
        if len(pictures) == len(image_folder.manifest.images):  # the manifest that is there vouches for none of them
            (image_folder.path / NAME).unlink(missing_ok=True)
        for picture in pictures:
            (image_folder.path / picture.file).unlink(missing_ok=True)


def _draw_batch(
    backbone: Backbone,
    image_folder: ImageFolder,
    pictures: Sequence[ManifestImage],
    vectors: Mapping[str, Mapping[str, Tensor]],
    settings: GenerationConfig,
) -> list[Image.Image]:
    return backbone.generate(
        [picture.prompt for picture in pictures],
        vectors,
        [picture.seed for picture in pictures],
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=image_folder.negative_prompt,
        sampler=settings.sampler,
        sampler_options=settings.sampler_options,
        height=settings.height,
        width=settings.width,
    )


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; yields what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("drawing", total=total)
        yield lambda count: bar.advance(task, count)
