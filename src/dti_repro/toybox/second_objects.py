"""The objects that stand beside a subject: one flat shape each, in one colour."""

from __future__ import annotations

import math
from collections.abc import Callable

from dti_repro.toybox.backdrops import Draw
from dti_repro.toybox.scene import RGB

INK = (38, 32, 36)
LINE = 3  # width of outlines in supersampled pixels


def _shape(draw: Draw, x: float, y: float, r: float, points: list[tuple[float, float]], fill: RGB) -> None:
    draw.polygon([(x + r * px, y + r * py) for px, py in points], fill=fill, outline=INK, width=LINE)


def _ball(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    r *= 0.92
    draw.ellipse([x - r, y - r, x + r, y + r], fill=rgb, outline=INK, width=LINE)
    draw.arc([x - r, y - 1.7 * r, x + r, y + 0.3 * r], 20, 160, fill=INK, width=3)


def _box(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    r *= 0.86
    draw.rectangle([x - r, y - r, x + r, y + r], fill=rgb, outline=INK, width=LINE)
    draw.line([x - r, y, x + r, y], fill=INK, width=4)
    draw.line([x, y - r, x, y + r], fill=INK, width=4)


def _star(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
    radii = [1.12 if k % 2 == 0 else 0.55 for k in range(10)]
    _shape(draw, x, y, r, [(m * math.cos(t), m * math.sin(t)) for m, t in zip(radii, angles, strict=True)], rgb)


def _flower(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    draw.line([x, y, x, y + 1.1 * r], fill=(40, 120, 50), width=8)
    for k in range(5):
        t = 2 * math.pi * k / 5 - math.pi / 2
        px, py = x + 0.48 * r * math.cos(t), y - 0.25 * r + 0.48 * r * math.sin(t)
        draw.ellipse([px - 0.42 * r, py - 0.42 * r, px + 0.42 * r, py + 0.42 * r], fill=rgb, outline=INK, width=3)
    draw.ellipse([x - 0.25 * r, y - 0.5 * r, x + 0.25 * r, y], fill=(92, 60, 30))


def _umbrella(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    draw.line([x, y, x, y + r], fill=INK, width=7)
    draw.arc([x - 0.35 * r, y + 0.7 * r, x, y + 1.1 * r], 0, 180, fill=INK, width=6)
    draw.pieslice([x - 1.1 * r, y - 0.9 * r, x + 1.1 * r, y + 1.1 * r], 180, 360, fill=rgb, outline=INK, width=LINE)


def _kite(draw: Draw, x: float, y: float, r: float, rgb: RGB) -> None:
    draw.line([x, y + 0.5 * r, x + 0.35 * r, y + 0.9 * r, x, y + 1.25 * r], fill=INK, width=5)
    _shape(draw, x, y, r, [(0, -1.15), (0.8, -0.2), (0, 0.85), (-0.8, -0.2)], rgb)
    draw.line([x, y - 1.1 * r, x, y + 0.8 * r], fill=INK, width=3)


SECOND_OBJECTS: dict[str, Callable[[Draw, float, float, float, RGB], None]] = {
    "ball": _ball, "box": _box, "star": _star, "flower": _flower, "umbrella": _umbrella, "kite": _kite,
}  # fmt: skip
