"""What lies behind a scene: eight backgrounds, each with small variations of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from dti_repro.toybox.scene import RGB

SIZE = 48  # pixels of a finished picture
OVER = 4  # supersampling: pictures are drawn this much larger and averaged down
SIDE = SIZE * OVER

Draw = ImageDraw.ImageDraw


def _sky(draw: Draw, top: RGB, bottom: RGB, rng: np.random.Generator, until: int = SIDE) -> None:
    shade = rng.uniform(-10, 10, size=3)
    for y in range(0, until, OVER):
        t = y / until
        color = tuple(int(np.clip(a + (b - a) * t + d, 0, 255)) for a, b, d in zip(top, bottom, shade, strict=True))
        draw.rectangle([0, y, SIDE, y + OVER], fill=color)


def _beach(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (140, 205, 245), (205, 235, 250), rng)
    sea = int(rng.uniform(80, 100))
    draw.rectangle([0, sea, SIDE, SIDE], fill=(40, 140, 190))
    draw.rectangle([0, sea + 36, SIDE, SIDE], fill=(236, 212, 150))


def _snow(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (178, 190, 214), (214, 220, 234), rng)
    ground = int(rng.uniform(112, 132))
    draw.rectangle([0, ground, SIDE, SIDE], fill=(240, 244, 250))
    for x, y in rng.uniform(0, 1, size=(16, 2)):
        draw.ellipse([x * SIDE - 3, y * ground - 3, x * SIDE + 3, y * ground + 3], fill=(250, 252, 255))


def _forest(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (34, 78, 44), (58, 104, 56), rng)
    for x in rng.uniform(0, SIDE, size=5):
        width = rng.uniform(10, 18)
        draw.rectangle([x, 40, x + width, 150], fill=(84, 60, 40))
    for x in rng.uniform(0, SIDE, size=6):
        r = rng.uniform(26, 40)
        draw.ellipse([x - r, 10 - r, x + r, 24 + r], fill=(26, 92, 44))
    draw.rectangle([0, 148, SIDE, SIDE], fill=(62, 72, 38))


def _city(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (176, 176, 186), (206, 204, 208), rng)
    x = -rng.uniform(0, 20)
    while x < SIDE:
        width, top = rng.uniform(26, 44), rng.uniform(24, 90)
        tone = int(rng.uniform(96, 140))
        draw.rectangle([x, top, x + width, 150], fill=(tone, tone, tone + 12))
        for wy in np.arange(top + 8, 136, 18):
            for wx in np.arange(x + 6, x + width - 8, 14):
                draw.rectangle([wx, wy, wx + 6, wy + 8], fill=(222, 210, 150))
        x += width + 2
    draw.rectangle([0, 146, SIDE, SIDE], fill=(84, 84, 90))
    draw.rectangle([0, 168, SIDE, 172], fill=(214, 214, 206))


def _night(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (12, 14, 46), (34, 36, 84), rng)
    for x, y in rng.uniform(0, 1, size=(14, 2)):
        draw.ellipse([x * SIDE - 2, y * 130 - 2, x * SIDE + 2, y * 130 + 2], fill=(240, 240, 220))
    mx, my = rng.uniform(20, 172), rng.uniform(16, 30)
    draw.ellipse([mx - 12, my - 12, mx + 12, my + 12], fill=(246, 240, 200))
    draw.rectangle([0, 156, SIDE, SIDE], fill=(22, 24, 40))


def _grass(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (150, 210, 250), (214, 238, 250), rng)
    hill = rng.uniform(84, 108)
    draw.rectangle([0, hill, SIDE, SIDE], fill=(120, 190, 84))
    for x, y in rng.uniform(0, 1, size=(14, 2)):
        gx, gy = x * SIDE, hill + 6 + y * (SIDE - hill - 10)
        draw.polygon([(gx - 5, gy + 8), (gx, gy - 8), (gx + 5, gy + 8)], fill=(84, 150, 60))


def _desert(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (250, 190, 120), (255, 222, 170), rng)
    dune = rng.uniform(80, 110)
    for k in range(2):
        cx, r = rng.uniform(0, SIDE), rng.uniform(100, 170)
        draw.ellipse([cx - r, dune + 18 * k, cx + r, dune + 2 * r], fill=(222 - 20 * k, 160 - 16 * k, 96 - 10 * k))
    draw.rectangle([0, 140, SIDE, SIDE], fill=(206, 146, 88))


def _room(draw: Draw, rng: np.random.Generator) -> None:
    _sky(draw, (232, 216, 206), (240, 228, 218), rng)
    floor = int(rng.uniform(128, 142))
    draw.rectangle([0, floor, SIDE, SIDE], fill=(150, 100, 62))
    for y in range(floor, SIDE, 18):
        draw.line([0, y, SIDE, y], fill=(112, 72, 44), width=3)
    x = rng.uniform(10, 140)
    draw.rectangle([x, 16, x + 40, 56], fill=(190, 214, 226), outline=(120, 84, 60), width=5)


BACKDROPS: dict[str, Callable[[Draw, np.random.Generator], None]] = {
    "beach": _beach, "snow": _snow, "forest": _forest, "city": _city,
    "night": _night, "grass": _grass, "desert": _desert, "room": _room,
}  # fmt: skip
