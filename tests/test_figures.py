"""Grids that people read: every image in its place, small ones enlarged by whole pixels, nothing cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dti_repro.artifacts.image_grid import CELL, Grid
from dti_repro.experiments.figures import front, save_norms


def plain(color: tuple[int, int, int], size: int = 48) -> Image.Image:
    return Image.new("RGB", (size, size), color)


def area(path: Path, color: tuple[int, int, int]) -> int:
    return int((np.asarray(Image.open(path)) == color).all(axis=-1).sum())


def test_every_image_is_whole_however_many_there_are(tmp_path: Path) -> None:
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    prompts = [f"a prompt of some length, number {i}" for i in range(11)]
    rows = {"TI": [plain(red)] * 11, "DTI": [plain(green, 96)] * 11}
    path = Grid(prompts, rows, [plain(blue)] * 5, "title").save(tmp_path / "grid.png", wrap=4)
    assert [area(path, color) for color in (red, green, blue)] == [11 * CELL**2, 11 * CELL**2, 5 * CELL**2]


def test_small_images_are_not_smoothed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 250, (48, 48, 3), dtype=np.uint8)
    path = Grid([""], {"": [Image.fromarray(noise)]}).save(tmp_path / "one.png")
    colors = {tuple(color) for color in noise.reshape(-1, 3)}
    shown = {tuple(color) for color in np.asarray(Image.open(path)).reshape(-1, 3)}
    assert shown == colors | {(255, 255, 255)}


def test_a_row_of_another_length_than_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row TI: 1 images for 2 columns"):
        Grid(["a", "b"], {"TI": [plain((0, 0, 0))]}).save(tmp_path / "grid.png")


def test_a_tall_grid_is_not_cut(tmp_path: Path) -> None:
    rows = {f"row {k}": [plain((255, 0, 0), 4)] for k in range(80)}
    path = Grid(["a"], rows).save(tmp_path / "grid.png")
    assert area(path, (255, 0, 0)) == 80 * CELL**2


def test_norms_are_the_same_bytes_when_plotted_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_norms(tmp_path / name, {"TI": [0.3, 4.0]}, "Norm")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_front_is_what_no_row_beats_on_both_axes() -> None:
    points = {"a": (0.1, 0.9), "b": (0.5, 0.5), "c": (0.4, 0.4), "d": (0.9, 0.1), "e": (0.9, 0.05)}
    assert front(points) == ["a", "b", "d"]
