"""From one learned word to another.

slerp turns each vector's direction at constant speed along the great circle and lets its norm change
linearly, so unequal norms are never mixed up with meaning. Between antipodal directions there is no single
shortest way, and the command says so. lerp goes straight through: the norm sinks on the way, to zero
halfway between opposite vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dti_repro.adapters.folder import adapter_of
from dti_repro.artifacts.embedding import load_embeddings, save_embeddings
from dti_repro.artifacts.files import refuse_links
from dti_repro.artifacts.run_dir import ConceptFolder, config_hash, embedding_files, embedding_sha256, parse
from dti_repro.data.photos import load_photo
from dti_repro.data.prompts import PromptSet, load_prompts
from dti_repro.errors import InputError
from dti_repro.experiments.figures import Grid
from dti_repro.inference.generator import draw
from dti_repro.inference.image_folder import GenerationConfig, ImageFolder, Subject, image_folder
from dti_repro.inference.selection import image_seeds, learned_subject

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class End:
    """One end of the way."""

    folder: ConceptFolder
    subject: Subject


def interpolate(cfg: DictConfig) -> Path:
    """Write the embeddings on the way, their pictures and a grid of these; returns the folder.

    Prompts are rows of the grid, points on the way are columns. InputError for what cannot be interpolated.
    """
    values = OmegaConf.to_container(cfg)
    found = {key: parse(values[key]) for key in ("a", "b")}
    prompts, seeds = load_prompts(values["prompts"]), image_seeds(values["seeds"])
    if any(prompt.names for prompt in prompts.prompts):
        raise InputError("prompts: one word stands in each prompt here; use {} instead of names")
    settings = GenerationConfig.of(OmegaConf.merge(cfg, {"steps": cfg.sampling_steps}))
    ends = [_end(key, cfg[key], folders, settings) for key, folders in found.items()]
    shas = [end.subject.embedding_sha256 for end in ends]
    name = config_hash({"embeddings": shas, "mode": cfg.mode, "steps": cfg.steps})
    folder = Path(cfg.out or Path(cfg.runs) / settings.backbone / "interpolate") / name
    files = [folder / f"step_{k:02d}" / "embedding.safetensors" for k in range(cfg.steps)]
    refuse_links(folder, *(file.parent for file in files))
    if not all(embedding_files(file) for file in files):
        _write_embeddings(ends, cfg.mode, files)
    image_folders = [_gallery(file, ends, prompts, seeds, settings) for file in files]
    drawn = draw(image_folders, cfg, settings)
    grid = folder / f"grid_{image_folders[0].path.name}.png"
    _grid(image_folders, ends, cfg.mode).save(grid, wrap=cfg.steps)
    total = sum(len(target.manifest.images) for target in image_folders)
    print(f"{drawn} images drawn, {total - drawn} were there")
    print(f"embeddings: {folder}/step_*/embedding*.safetensors")
    print(f"grid: {grid}")
    return folder


def between(a: Tensor, b: Tensor, mode: str, steps: int) -> list[Tensor]:
    """`steps` points from a to b, both (vectors, dim), ends included, each vector by itself. ValueError as
    sphere.slerp.
    """
    from dti_repro.optim.sphere import lerp, slerp

    move = slerp if mode == "slerp" else lerp
    return [move(a, b, k / (steps - 1)) for k in range(steps)]


def _end(key: str, path: str, folders: Sequence[ConceptFolder], settings: GenerationConfig) -> End:
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{key}={path} has several concepts ({names}): name one concept's folder")
    (folder,) = folders
    trained_on = folder.path.resolve().parents[3].name
    if trained_on != settings.backbone:
        raise InputError(f"{key}={path} was trained on {trained_on}: add backbone={trained_on}")
    if adapter_of(folder.embedding) is not None:
        raise InputError(f"{key}={path} was learned with an adapter: only words without one can be interpolated")
    return End(folder, learned_subject(folder, folder.embedding))


def _write_embeddings(ends: Sequence[End], mode: str, files: Sequence[Path]) -> None:
    a, b = (load_embeddings(end.folder.embedding) for end in ends)
    shapes = [{name: tuple(rows.shape) for name, rows in end.items()} for end in (a, b)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{ends[0].folder.embedding} has shape {_shape(shapes[0])}, {ends[1].folder.embedding} has "
            f"{_shape(shapes[1])}: only words of equally many vectors can be interpolated"
        )
    try:
        points = {encoder: between(a[encoder], b[encoder], mode, len(files)) for encoder in a}
    except ValueError as error:
        paths = " and ".join(str(end.folder.path) for end in ends)
        raise InputError(f"mode={mode} between {paths}: {error}") from error
    name = _name(ends)
    header = {"method": mode, "concept": name, "initializer": ends[0].subject.text}
    header |= {key: end.subject.embedding_sha256 or "" for key, end in zip("ab", ends, strict=True)}
    for k, file in enumerate(files):
        rows = {encoder: way[k] for encoder, way in points.items()}
        save_embeddings(file, f"<{name}>", rows, {**header, "step": f"{k}/{len(files) - 1}"})


def _gallery(
    file: Path, ends: Sequence[End], prompts: PromptSet, seeds: Sequence[int], settings: GenerationConfig
) -> ImageFolder:
    name = _name(ends)
    live = all(end.subject.live for end in ends)
    subject = Subject(name, f"<{name}>", ends[0].subject.text, embedding_sha256(file), live)
    return image_folder(file.parent / "images", [subject], prompts, seeds, settings, vectors={subject.word: file})


def _shape(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return " and ".join(str(shape) for shape in shapes.values())


def _name(ends: Sequence[End]) -> str:
    return "-".join(end.subject.name for end in ends)


def _grid(image_folders: Sequence[ImageFolder], ends: Sequence[End], mode: str) -> Grid:
    share = [f"{k / (len(image_folders) - 1):.2f}" for k in range(len(image_folders))]
    share[0], share[-1] = (end.subject.name for end in ends)
    rows = {}
    for i, image in enumerate(image_folders[0].manifest.images):
        pictures = [load_photo(g.path / g.manifest.images[i].file) for g in image_folders]
        rows[f"{image.template}, seed {image.seed}"] = pictures
    return Grid(share, rows, title=f"{mode}: {ends[0].subject.name} to {ends[1].subject.name}")
