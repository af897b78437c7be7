"""Generate images between the vectors of two trained concepts."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dti_repro.artifacts.image_grid import Grid
from dti_repro.data.photos import load_photo
from dti_repro.inference.generator import draw_missing
from dti_repro.inference.interpolation import Interpolation, prepare_interpolation
from dti_repro.launch.command import command


def interpolate(cfg: DictConfig) -> Path:
    """Write the embeddings of the points between two words, their images and a grid of these; return the folder."""
    points = prepare_interpolation(cfg)
    drawn = draw_missing(points.image_folders, cfg)
    grid = points.folder / f"grid_{points.image_folders[0].path.name}.png"
    _grid(points, cfg.mode).save(grid, wrap=cfg.steps)
    total = sum(len(image_folder.manifest.images) for image_folder in points.image_folders)
    print(f"{drawn} images drawn, {total - drawn} were drawn before")
    print(f"embeddings: {points.folder}/step_*/embedding*.safetensors")
    print(f"grid: {grid}")
    return points.folder


def _grid(points: Interpolation, mode: str) -> Grid:
    """Return the grid: prompts and seeds are rows, points are columns."""
    last = len(points.image_folders) - 1
    columns = [points.ends[0], *(f"{k / last:.2f}" for k in range(1, last)), points.ends[1]]
    rows = {
        f"{image.template}, seed {image.seed}": [load_photo(f.path / image.file) for f in points.image_folders]
        for image in points.image_folders[0].manifest.images
    }
    return Grid(columns, rows, title=f"{mode}: {points.ends[0]} to {points.ends[1]}")


@command("interpolate")
def main(cfg: DictConfig) -> None:
    interpolate(cfg)


if __name__ == "__main__":
    main()
