"""Drawing what is missing: which picture belongs where, and the loop that draws them in batches.

Imports no torch: what is already there is found within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapted, check_adapters
from dti_repro.backbones.checkpoint import fingerprint, locate
from dti_repro.configured import target
from dti_repro.devices import check_count, share_out
from dti_repro.errors import InputError
from dti_repro.prompts import Prompt, PromptSet
from dti_repro.results.files import atomic_write
from dti_repro.results.lock import BusyError, locked
from dti_repro.results.manifest import NAME, Manifest, ManifestImage, generation_id
from dti_repro.results.run import check_name

if TYPE_CHECKING:
    from torch import Tensor

    from dti_repro.backbones.backbone import Backbone


READING = ("pool", "instruction")
"""Knobs of backbones that say how a prompt is read."""
LOCKS = 64
"""Folders that are locked at once: each holds an open file and a thread, and there may be thousands."""


@dataclass(frozen=True)
class Settings:
    """What a picture depends on besides its prompt, seed and vectors."""

    backbone: str
    weights: str  # fingerprint
    sampler: str
    sampler_options: Mapping[str, Any]
    steps: int
    guidance: float
    negative_prompt: str
    width: int | None
    height: int | None
    reading: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, cfg: DictConfig) -> Settings:
        """From the keys of generate.yaml. InputError that names the key."""
        if isinstance(cfg.steps, bool) or not isinstance(cfg.steps, int) or cfg.steps < 1:
            raise InputError(f"steps={cfg.steps}: a whole number of at least 1 is needed")
        if not isinstance(cfg.guidance, int | float) or not 0 <= cfg.guidance < float("inf"):
            raise InputError(f"guidance={cfg.guidance}: a number of at least 0 is needed (1 switches guidance off)")
        for key in ("width", "height"):
            if cfg[key] is not None and (not isinstance(cfg[key], int) or cfg[key] < 8 or cfg[key] % 8):
                raise InputError(f"{key}={cfg[key]}: a positive multiple of 8 is needed")
        if (cfg.width is None) != (cfg.height is None):
            raise InputError("width and height are given together, or neither")
        return cls(
            backbone=check_name(str(cfg.backbone.name), "backbone.name"),
            weights=fingerprint(locate(cfg.backbone.path, cfg.backbone.revision))[:16],
            sampler=cfg.sampler.scheduler,
            sampler_options=OmegaConf.to_container(cfg.sampler.options),
            steps=cfg.steps,
            guidance=float(cfg.guidance),
            negative_prompt=str(cfg.negative_prompt),
            width=cfg.width,
            height=cfg.height,
            reading={knob: cfg.backbone[knob] for knob in READING if knob in cfg.backbone},
        )


@dataclass(frozen=True)
class Subject:
    """What stands in a prompt's field: a learned word's placeholder, or just words."""

    name: str
    word: str  # as the model reads it
    text: str  # as a text score reads it: the class word
    embedding_sha256: str | None = None
    live: bool = False  # a person or an animal


@dataclass(frozen=True)
class Gallery:
    """The pictures of one folder `images/<id>/` and the vectors that their placeholders stand for."""

    folder: Path
    manifest: Manifest
    vectors: Mapping[str, Path] = field(default_factory=dict)  # placeholder -> embedding
    adapter: Path | None = None  # its folder, of vectors that were learned with one

    def missing(self) -> list[ManifestImage]:
        return self.manifest.missing(self.folder)


def gallery(
    images: Path,
    subjects: Sequence[Subject],
    prompts: PromptSet,
    seeds: Sequence[int],
    settings: Settings,
    *,
    vectors: Mapping[str, Path] | None = None,
    snapshot: int | None = None,
    adapter: Path | None = None,
) -> Gallery:
    """The pictures of the prompts that are about exactly these subjects, below `images`/<generation id>/.

    Files are p<prompt>_s<seed>.png, numbered through the whole set, so that a set's prompts keep their
    numbers where only some of them are about these subjects.
    """
    names = {subject.name for subject in subjects}
    prompts = prompts.about(live=all(subject.live for subject in subjects))
    generation = {
        "backbone": settings.backbone,
        "weights": settings.weights,
        "prompts": prompts.name,
        "seeds": list(seeds),
        "sampler": settings.sampler,
        "sampler_options": dict(settings.sampler_options),
        "steps": settings.steps,
        "guidance": settings.guidance,
        "negative_prompt": settings.negative_prompt,
        "width": settings.width,
        "height": settings.height,
        **settings.reading,
        **({"snapshot": snapshot} if snapshot is not None else {}),
    }
    pictures = [
        ManifestImage(
            file=f"p{number:03d}_s{seed}.png",
            prompt=prompt.fill({subject.name: subject.word for subject in subjects}),
            template=prompt.template,
            text=prompt.fill({subject.name: subject.text for subject in subjects}),
            seed=seed,
            concepts=prompt.names or tuple(names),
            expect=_expect(prompt, subjects),
        )
        for number, prompt in enumerate(prompts.prompts)
        if set(prompt.names) == names or (not prompt.names and len(subjects) == 1)
        for seed in seeds
    ]
    shas = {subject.name: subject.embedding_sha256 for subject in subjects if subject.embedding_sha256}
    folder = images / generation_id(generation, tuple(prompt.template for prompt in prompts.prompts))
    return Gallery(folder, Manifest(generation, shas, tuple(pictures)), vectors or {}, adapter)


def draw(galleries: Sequence[Gallery], cfg: DictConfig, settings: Settings) -> int:
    """Draw what is missing in the galleries; returns how many pictures that was, 0 without importing torch.

    The embeddings, and the adapters' settings, are read and checked before a model is loaded. Raises InputError for
    what does not fit; BusyError, when all others are drawn, for a gallery that another process is at.
    """
    todo = list({gallery.folder: gallery for gallery in galleries if gallery.missing()}.values())
    if not todo:
        return 0
    check_count("batch", cfg.batch)
    check_count("devices", cfg.devices)
    from dti_repro.backbones.backbone import Backbone
    from dti_repro.results.embedding import load_embeddings

    target(cfg.backbone._target_, Backbone).check_drawing(settings.sampler, settings.height, settings.width)
    for path in sorted({path for gallery in todo for path in gallery.vectors.values()}):
        load_embeddings(path)
    check_adapters({gallery.adapter for gallery in todo} - {None})
    total = sum(len(gallery.missing()) for gallery in todo)
    busy: list[BusyError] = []
    for k in range(0, len(todo), LOCKS):
        with _owned(todo[k : k + LOCKS], busy) as ours:
            batches = [(gallery, pictures) for gallery in ours for pictures in _batches(gallery, cfg.batch)]
            share_out(partial(_draw_batches, cfg, settings), batches, cfg.devices, cfg.accelerator)
    if busy:
        raise busy[0]
    return total


@contextmanager
def _owned(galleries: Sequence[Gallery], busy: list[BusyError]) -> Iterator[list[Gallery]]:
    """Lock the galleries' folders and say in them what is drawn; those that another process is at go to `busy`."""
    with ExitStack() as stack:
        ours = []
        for gallery in galleries:
            try:
                stack.enter_context(locked(gallery.folder / "lock", f"folder {gallery.folder} is being drawn"))
            except BusyError as error:
                busy.append(error)
                continue
            ours.append(gallery)
            if pictures := gallery.missing():  # another process may have drawn them meanwhile
                _start(gallery, pictures)
        yield ours


def _batches(gallery: Gallery, size: int) -> list[list[ManifestImage]]:
    pictures = gallery.missing()
    return [pictures[k : k + size] for k in range(0, len(pictures), size)]


def _draw_batches(cfg: DictConfig, settings: Settings, batches: Sequence[tuple[Gallery, list[ManifestImage]]]) -> None:
    """Draw pictures of galleries whose folders are locked and have their manifests."""
    if not batches:
        return
    import torch

    from dti_repro.backbones.load import load_backbone
    from dti_repro.results.embedding import for_encoders, load_embeddings

    torch.set_num_threads(cfg.threads)
    backbone = load_backbone(cfg.backbone, cfg.accelerator)
    with _progress(sum(len(pictures) for _, pictures in batches), cfg.progress) as advance:
        for folder, group in groupby(batches, key=lambda batch: batch[0].folder):
            own = list(group)
            gallery = own[0][0]
            learned = {
                placeholder: for_encoders(load_embeddings(path), backbone.spec, path)
                for placeholder, path in gallery.vectors.items()
            }
            with adapted(backbone.denoiser, gallery.adapter):
                for _, pictures in own:
                    _draw_batch(backbone, folder, pictures, learned, settings)
                    advance(len(pictures))


def _expect(prompt: Prompt, subjects: Sequence[Subject]) -> dict[str, str] | None:
    if prompt.expect is None or len(subjects) > 1:
        return None if prompt.expect is None else dict(prompt.expect)
    return {"class": subjects[0].text, **prompt.expect}


def _start(target: Gallery, pictures: Sequence[ManifestImage]) -> None:
    """What does not belong here any more goes before the manifest can vouch for it; then pictures come."""
    for picture in pictures:
        (target.folder / picture.file).unlink(missing_ok=True)
    target.manifest.write(target.folder / NAME)


def _draw_batch(
    backbone: Backbone,
    folder: Path,
    pictures: Sequence[ManifestImage],
    vectors: Mapping[str, Mapping[str, Tensor]],
    settings: Settings,
) -> None:
    images = backbone.generate(
        [picture.prompt for picture in pictures],
        vectors,
        [picture.seed for picture in pictures],
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        sampler=settings.sampler,
        sampler_options=settings.sampler_options,
        height=settings.height,
        width=settings.width,
    )
    for picture, image in zip(pictures, images, strict=True):
        with atomic_write(folder / picture.file) as temporary:
            image.save(temporary, format="PNG")


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; yields what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("drawing", total=total)
        yield lambda count: bar.advance(task, count)
