"""Interpolate between two learned words.

slerp turns each vector's direction at constant speed along the great circle and lets its norm change linearly, so that
unequal norms are never mixed up with meaning. Between antipodal directions there is no single shortest way, and the
command says so. lerp goes straight through: the norm sinks on the way, to zero halfway between opposite vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapter_of
from dti_repro.artifacts.embedding import load_embeddings, save_embeddings
from dti_repro.artifacts.files import refuse_links
from dti_repro.artifacts.run_dir import (
    ConceptFolder,
    check_trained_on,
    config_hash,
    embedding_files,
    embedding_sha256,
    finished_concepts,
)
from dti_repro.data.prompts import PromptSet
from dti_repro.errors import InputError
from dti_repro.inference.generator import check_drawing
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, Subject, build_image_folder
from dti_repro.inference.selection import asked_images, learned_subject

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("a", "b")


@dataclass(frozen=True)
class WordPair:
    """Two learned words that can be interpolated, and what prompts read of them."""

    folders: tuple[ConceptFolder, ConceptFolder]
    subjects: tuple[Subject, Subject]

    @classmethod
    def of(cls, cfg: DictConfig, settings: GenerationConfig) -> WordPair:
        """Return the words in the folders `a` and `b`. InputError that names the key of one that cannot be used."""
        a, b = (_end(key, cfg[key], settings) for key in KEYS)
        return cls((a, b), (learned_subject(a, a.embedding), learned_subject(b, b.embedding)))

    @property
    def names(self) -> tuple[str, str]:
        return self.folders[0].name, self.folders[1].name

    def point(self, digest: str | None = None) -> Subject:
        """Return what stands in a prompt for a point between the two. digest: of its embedding."""
        name, live = "-".join(self.names), all(subject.live for subject in self.subjects)
        return Subject(name, f"<{name}>", self.subjects[0].text, digest, live)

    def interpolator(self) -> Callable[[str, float], dict[str, Tensor]]:
        """Read both embeddings; return (mode, share) -> text encoder -> (vectors, dim), a at share 0 and b at share 1.

        InputError for words without vectors of equal shapes. What is returned raises InputError for opposite
        directions, between which slerp is not defined.
        """
        from dti_repro.optim.sphere import lerp, slerp

        files = [folder.embedding for folder in self.folders]
        a, b = map(load_embeddings, files)
        shapes = [" and ".join(str(tuple(rows.shape)) for rows in vectors.values()) for vectors in (a, b)]
        if a.keys() != b.keys() or shapes[0] != shapes[1]:
            raise InputError(
                f"{files[0]} has shape {shapes[0]}, {files[1]} has {shapes[1]}: only words of equally many vectors can "
                "be interpolated"
            )

        def at(mode: str, share: float) -> dict[str, Tensor]:
            move = {"slerp": slerp, "lerp": lerp}[mode]
            try:
                return {encoder: move(a[encoder], b[encoder], share) for encoder in a}
            except ValueError as error:
                paths = " and ".join(str(file.parent) for file in files)
                raise InputError(f"mode={mode} between {paths}: {error}") from error

        return at


@dataclass(frozen=True)
class Interpolation:
    """The points between two words, both ends included, whose embeddings lie below `folder`, and their images."""

    folder: Path
    ends: tuple[str, str]  # names of the concepts
    image_folders: list[ImageFolder]  # one for each point


def prepare_interpolation(cfg: DictConfig) -> Interpolation:
    """Write the embeddings of the points. InputError, and nothing is written, for what cannot be interpolated or
    drawn."""
    prompts, seeds, settings = asked_images(OmegaConf.merge(cfg, {"steps": cfg.sampling_steps}))
    check_single(prompts)
    ends = WordPair.of(cfg, settings)
    digests = [subject.embedding_sha256 for subject in ends.subjects]
    hashed = config_hash({"embeddings": digests, "mode": cfg.mode, "steps": cfg.steps})
    folder = Path(cfg.out or Path(cfg.runs) / settings.backbone / "interpolate") / hashed
    files = [folder / f"step_{k:02d}" / "embedding.safetensors" for k in range(cfg.steps)]
    refuse_links(folder, *(file.parent for file in files))

    def images_of(images: Path, embedding: Path) -> ImageFolder:
        point = ends.point(embedding_sha256(embedding))
        return build_image_folder(images, [point], prompts, seeds, settings, vectors={point.word: embedding})

    if not all(embedding_files(file) for file in files):
        at = ends.interpolator()
        points = [at(cfg.mode, k / (cfg.steps - 1)) for k in range(cfg.steps)]
        first = images_of(folder / "images", ends.folders[0].embedding)  # points are of its shape
        check_drawing([first], cfg)
        word, sources = ends.point(), dict(zip(KEYS, digests, strict=True))
        header = {"method": cfg.mode, "concept": word.name, "initializer": word.text, **sources}
        for k, (file, vectors) in enumerate(zip(files, points, strict=True)):
            save_embeddings(file, word.word, vectors, {**header, "step": f"{k}/{cfg.steps - 1}"})
    image_folders = [images_of(file.parent / "images", file) for file in files]
    return Interpolation(folder, ends.names, image_folders)


def check_single(prompts: PromptSet) -> None:
    """Raise InputError for prompts that name concepts: the point between two has no name in a run."""
    if any(prompt.names for prompt in prompts.prompts):
        raise InputError("prompts: one word stands in each prompt here; use {} instead of names")


def _end(key: str, path: str, settings: GenerationConfig) -> ConceptFolder:
    folders = finished_concepts(path)
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{key}={path} has several concepts ({names}): name one concept's folder")
    (folder,) = folders
    check_trained_on(settings.backbone, folder, f"{key}={path}")
    if adapter_of(folder.embedding) is not None:
        raise InputError(f"{key}={path} was learned with an adapter: only words without one can be interpolated")
    return folder
