"""Interpolate between two learned words.

slerp turns each vector's direction at constant speed along the great circle and lets its norm change linearly, so that
unequal norms are never mixed up with meaning. Between antipodal directions there is no single shortest way, and the
command says so. lerp goes straight through: the norm sinks on the way, to zero halfway between opposite vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapter_of
from dti_repro.artifacts.embedding import load_embeddings, save_embeddings
from dti_repro.artifacts.files import refuse_links
from dti_repro.artifacts.run_dir import ConceptFolder, config_hash, embedding_files, embedding_sha256, parse
from dti_repro.data.prompts import load_prompts
from dti_repro.errors import InputError
from dti_repro.inference.generator import check_drawing
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, Subject, build_image_folder
from dti_repro.inference.selection import image_seeds, learned_subject

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """The points between two words, both ends included, whose embeddings lie below `folder`, and their images."""

    folder: Path
    ends: tuple[str, str]  # names of the concepts
    image_folders: list[ImageFolder]  # one for each point
    settings: GenerationConfig


def prepare_interpolation(cfg: DictConfig) -> Interpolation:
    """Write the embeddings of the points. InputError, and nothing is written, for what cannot be interpolated or
    drawn."""
    values = OmegaConf.to_container(cfg)
    found = {key: parse(values[key]) for key in ("a", "b")}
    prompts, seeds = load_prompts(values["prompts"]), image_seeds(values["seeds"])
    if any(prompt.names for prompt in prompts.prompts):
        raise InputError("prompts: one word stands in each prompt here; use {} instead of names")
    settings = GenerationConfig.of(OmegaConf.merge(cfg, {"steps": cfg.sampling_steps}))
    ends = {key: _end(key, cfg[key], folders, settings) for key, folders in found.items()}
    subjects = [learned_subject(end, end.embedding) for end in ends.values()]
    digests = [subject.embedding_sha256 for subject in subjects]
    hashed = config_hash({"embeddings": digests, "mode": cfg.mode, "steps": cfg.steps})
    folder = Path(cfg.out or Path(cfg.runs) / settings.backbone / "interpolate") / hashed
    files = [folder / f"step_{k:02d}" / "embedding.safetensors" for k in range(cfg.steps)]
    refuse_links(folder, *(file.parent for file in files))
    name = "-".join(end.name for end in ends.values())

    def images_of(images: Path, embedding: Path) -> ImageFolder:
        live = all(subject.live for subject in subjects)
        point = Subject(name, f"<{name}>", subjects[0].text, embedding_sha256(embedding), live)
        return build_image_folder(images, [point], prompts, seeds, settings, vectors={point.word: embedding})

    if not all(embedding_files(file) for file in files):
        points = _points([end.embedding for end in ends.values()], cfg.mode, cfg.steps)
        check_drawing([images_of(folder / "images", ends["a"].embedding)], cfg, settings)  # points are of its shape
        header = {"method": cfg.mode, "concept": name, "initializer": subjects[0].text}
        header |= dict(zip("ab", digests, strict=True))
        for k, (file, vectors) in enumerate(zip(files, points, strict=True)):
            save_embeddings(file, f"<{name}>", vectors, {**header, "step": f"{k}/{cfg.steps - 1}"})
    image_folders = [images_of(file.parent / "images", file) for file in files]
    return Interpolation(folder, (ends["a"].name, ends["b"].name), image_folders, settings)


def _end(key: str, path: str, folders: Sequence[ConceptFolder], settings: GenerationConfig) -> ConceptFolder:
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{key}={path} has several concepts ({names}): name one concept's folder")
    (folder,) = folders
    trained_on = folder.path.resolve().parents[3].name
    if trained_on != settings.backbone:
        raise InputError(f"{key}={path} was trained on {trained_on}: add backbone={trained_on}")
    if adapter_of(folder.embedding) is not None:
        raise InputError(f"{key}={path} was learned with an adapter: only words without one can be interpolated")
    return folder


def _points(files: Sequence[Path], mode: str, steps: int) -> list[dict[str, Tensor]]:
    """Return text encoder -> (vectors, dim) for each of `steps` points from the first embedding to the second, both
    included."""
    from dti_repro.optim.sphere import lerp, slerp

    a, b = map(load_embeddings, files)
    shapes = [" and ".join(str(tuple(rows.shape)) for rows in vectors.values()) for vectors in (a, b)]
    if a.keys() != b.keys() or shapes[0] != shapes[1]:
        raise InputError(
            f"{files[0]} has shape {shapes[0]}, {files[1]} has {shapes[1]}: only words of equally many vectors can be "
            "interpolated"
        )
    move = {"slerp": slerp, "lerp": lerp}[mode]
    try:
        return [{encoder: move(a[encoder], b[encoder], k / (steps - 1)) for encoder in a} for k in range(steps)]
    except ValueError as error:
        paths = " and ".join(str(file.parent) for file in files)
        raise InputError(f"mode={mode} between {paths}: {error}") from error
