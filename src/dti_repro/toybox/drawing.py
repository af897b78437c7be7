"""Renders toybox scenes: flat shapes with dark outlines, drawn large and averaged down.

Deterministic: a scene names every random choice, backdrops through ``backdrop_seed``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from dti_repro.toybox.backdrops import BACKDROPS, SIDE, SIZE
from dti_repro.toybox.scene import RGB, Individual, Scene
from dti_repro.toybox.second_objects import INK, LINE, SECOND_OBJECTS


def render(scene: Scene) -> np.ndarray:
    """Return the picture of a scene: (48, 48, 3) uint8 RGB."""
    image = Image.new("RGB", (SIDE, SIDE))
    BACKDROPS[scene.background](ImageDraw.Draw(image), np.random.default_rng(scene.backdrop_seed))
    if scene.other != "none":
        x, y = scene.other_at
        SECOND_OBJECTS[scene.other](
            ImageDraw.Draw(image), x * SIDE, y * SIDE, scene.other_size * SIDE / 2, scene.other_rgb
        )
    _subject(image, scene)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


class _Pen:
    """Draws in a subject's own coordinates, [-1, 1] across its box, y down; ``body`` shapes receive the pattern."""

    def __init__(self, image: Image.Image, x: float, y: float, half: float):
        self.image, self.x, self.y, self.half = image, x, y, half
        self.draw = ImageDraw.Draw(image)
        self.mask = Image.new("L", image.size)
        self.mask_draw = ImageDraw.Draw(self.mask)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.half, self.y + y * self.half

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        return [*self.at(x0, y0), *self.at(x1, y1)]

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB, body: bool = False) -> None:
        box = self._box(x - rx, y - ry, x + rx, y + ry)
        self.draw.ellipse(box, fill=fill, outline=INK, width=LINE)
        if body:
            self.mask_draw.ellipse([box[0] + LINE, box[1] + LINE, box[2] - LINE, box[3] - LINE], fill=255)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, body: bool = False, r: float = 0.0) -> None:
        box = self._box(x0, y0, x1, y1)
        self.draw.rounded_rectangle(box, radius=r * self.half, fill=fill, outline=INK, width=LINE)
        if body:
            inner = [box[0] + LINE, box[1] + LINE, box[2] - LINE, box[3] - LINE]
            self.mask_draw.rounded_rectangle(inner, radius=r * self.half, fill=255)

    def polygon(self, points: list[tuple[float, float]], fill: RGB, body: bool = False) -> None:
        corners = [self.at(*p) for p in points]
        self.draw.polygon(corners, fill=fill, outline=INK, width=LINE)
        if body:
            self.mask_draw.polygon(corners, fill=255, outline=0, width=LINE)

    def line(self, points: list[tuple[float, float]], fill: RGB, width: float) -> None:
        corners = [self.at(*p) for p in points]
        self.draw.line(corners, fill=INK, width=round(width * self.half) + 2 * LINE, joint="curve")
        self.draw.line(corners, fill=fill, width=round(width * self.half), joint="curve")

    def dot(self, x: float, y: float, r: float, fill: RGB = INK) -> None:
        self.draw.ellipse(self._box(x - r, y - r, x + r, y + r), fill=fill)

    def paint_pattern(self, subject: Individual) -> None:
        """Lay the subject's second colour over the body shapes drawn so far."""
        if subject.pattern == "plain":
            return
        ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        u = (xs - self.x) / self.half
        v = (ys - self.y) / self.half
        cos, sin = math.cos(subject.angle), math.sin(subject.angle)
        a, b = u * cos + v * sin, v * cos - u * sin
        if subject.pattern == "striped":
            period = 0.42 + 0.2 * subject.scale
            on = ((a / period + subject.phase) % 1.0) < 0.34
        elif subject.pattern == "spotted":
            period = 0.5 + 0.2 * subject.scale
            du = (a / period + subject.phase) % 1.0 - 0.5
            dv = (b / period + subject.phase) % 1.0 - 0.5
            on = du**2 + dv**2 < 0.085
        elif subject.pattern == "checked":
            period = 0.3 + 0.16 * subject.scale
            on = (np.floor(a / period + subject.phase) + np.floor(b / period + subject.phase)) % 2 == 0
        elif subject.pattern == "halved":
            on = a > 0.6 * (subject.phase - 0.5)
        else:
            on = np.abs(b - 0.4 * (subject.phase - 0.5)) < 0.13 + 0.08 * subject.scale
        covered = ImageChops.multiply(self.mask, Image.fromarray((on * 255).astype(np.uint8)))
        self.image.paste(subject.secondary, mask=covered)


Anchors = dict[str, tuple[float, float, float]]  # "top", "eyes", "neck" -> x, y, width in the subject's coordinates


def _subject(image: Image.Image, scene: Scene) -> None:
    half = scene.subject_size * SIDE / 2
    pen = _Pen(image, scene.subject_at[0] * SIDE, scene.subject_at[1] * SIDE, half)
    anchors = _CLASSES[scene.subject.cls](pen, scene.subject)
    if scene.accessory != "none":
        _ACCESSORIES[scene.accessory](pen, anchors, scene.accessory_rgb)


def _eyes(pen: _Pen, x: float, y: float, gap: float, r: float = 0.07) -> None:
    for side in (-1, 1):
        pen.dot(x + side * gap, y, r * 1.7, (250, 250, 250))
        pen.dot(x + side * gap, y, r)


def _dog(pen: _Pen, s: Individual) -> Anchors:
    long, tall, ear, tail = s.proportions
    left, right = -0.55 - 0.2 * long, 0.45
    leg = 0.35 + 0.14 * tall
    bottom = 0.95
    belly = bottom - leg
    pen.line([(left + 0.05, belly - 0.3), (left - 0.25, belly - 0.55 - 0.25 * tail)], s.primary, 0.13)
    for x in (left + 0.15, left + 0.4, right - 0.35, right - 0.1):
        pen.rect(x - 0.09, belly - 0.1, x + 0.09, bottom, s.trim)
    pen.rect(left, belly - 0.55, right, belly, s.primary, body=True, r=0.22)
    hx, hy = 0.52, belly - 0.72
    pen.ellipse(hx + 0.22, hy + 0.1, 0.26, 0.16, s.primary)
    pen.ellipse(hx, hy, 0.33, 0.31, s.primary)
    pen.ellipse(hx - 0.24, hy + 0.1, 0.11, 0.25 + 0.1 * ear, s.secondary)
    pen.dot(hx + 0.43, hy + 0.06, 0.07)
    pen.dot(hx + 0.1, hy - 0.08, 0.06)
    pen.paint_pattern(s)
    return {
        "top": (hx - 0.02, hy - 0.26, 0.3),
        "eyes": (hx + 0.06, hy - 0.06, 0.3),
        "neck": (hx - 0.14, hy + 0.36, 0.3),
    }


def _cat(pen: _Pen, s: Individual) -> Anchors:
    fat, ear, tail, head = s.proportions
    rx = 0.44 + 0.1 * fat
    pen.line([(rx - 0.1, 0.75), (rx + 0.3, 0.5), (rx + 0.22, 0.0 - 0.25 * tail)], s.primary, 0.12)
    pen.ellipse(0, 0.45, rx, 0.52, s.primary, body=True)
    for side in (-1, 1):
        pen.ellipse(side * 0.22, 0.9, 0.17, 0.1, s.trim)
    hy, hr = -0.35, 0.38 + 0.05 * head
    for side in (-1, 1):
        pen.polygon(
            [(side * 0.1, hy - 0.22), (side * 0.3, hy - 0.6 - 0.14 * ear), (side * 0.38, hy - 0.1)],
            s.secondary,
        )
    pen.ellipse(0, hy, hr, 0.34, s.primary)
    _eyes(pen, 0, hy - 0.04, 0.15)
    pen.dot(0, hy + 0.12, 0.06, s.trim)
    pen.paint_pattern(s)
    return {"top": (0, hy - 0.3, 0.32), "eyes": (0, hy - 0.04, 0.34), "neck": (0, hy + 0.36, 0.36)}


def _bird(pen: _Pen, s: Individual) -> Anchors:
    fat, beak, tail, leg = s.proportions
    rx, ry = 0.58, 0.46 + 0.08 * fat
    for x in (-0.08, 0.16):
        pen.line([(x, 0.5), (x, 0.85 + 0.1 * leg)], s.trim, 0.07)
    pen.polygon([(-0.4, 0.1), (-0.98, -0.12 - 0.2 * tail), (-0.9, 0.35)], s.secondary)
    pen.ellipse(0, 0.2, rx, ry, s.primary, body=True)
    pen.polygon([(0.62, -0.42), (1.0 + 0.08 * beak, -0.28), (0.62, -0.16)], s.trim)
    pen.ellipse(0.4, -0.32, 0.33, 0.31, s.primary)
    pen.dot(0.48, -0.38, 0.12, (250, 250, 250))
    pen.dot(0.5, -0.38, 0.065)
    pen.paint_pattern(s)
    pen.ellipse(-0.14, 0.22, 0.28, 0.16, s.secondary)
    return {"top": (0.38, -0.58, 0.3), "eyes": (0.44, -0.38, 0.3), "neck": (0.3, 0.0, 0.34)}


def _fish(pen: _Pen, s: Individual) -> Anchors:
    tall, tail, fin, nose = s.proportions
    ry = 0.46 + 0.1 * tall
    pen.polygon([(-0.5, 0.1), (-1.0, -0.3 - 0.15 * tail), (-0.86, 0.1), (-1.0, 0.5 + 0.15 * tail)], s.secondary)
    pen.polygon([(-0.3, 0.1 - ry * 0.8), (0.0, -0.5 - 0.18 * fin), (0.3, 0.1 - ry * 0.8)], s.trim)
    pen.polygon([(-0.2, 0.1 + ry * 0.8), (0.0, 0.75 + 0.15 * fin), (0.25, 0.1 + ry * 0.8)], s.trim)
    pen.ellipse(0.08, 0.1, 0.74 + 0.08 * nose, ry, s.primary, body=True)
    pen.paint_pattern(s)
    pen.dot(0.48, -0.02, 0.14, (250, 250, 250))
    pen.dot(0.52, -0.02, 0.075)
    pen.line([(0.66, 0.28), (0.8, 0.24)], INK, 0.01)
    return {"top": (0.3, -0.3 - 0.06 * tall, 0.3), "eyes": (0.48, -0.02, 0.32), "neck": (0.12, 0.24, 0.5)}


def _car(pen: _Pen, s: Individual) -> Anchors:
    cabin, wheel, tall, nose = s.proportions
    roof = -0.36 - 0.16 * tall
    x0, x1 = -0.5 - 0.12 * cabin, 0.36 + 0.1 * nose
    pen.polygon([(x0 - 0.16, 0.1), (x0, roof), (x1, roof), (x1 + 0.26, 0.1)], s.secondary)
    pen.polygon([(x0 + 0.04, 0.04), (x0 + 0.12, roof + 0.12), (-0.12, roof + 0.12), (-0.12, 0.04)], (196, 224, 240))
    pen.polygon([(0.02, 0.04), (0.02, roof + 0.12), (x1 - 0.08, roof + 0.12), (x1 + 0.1, 0.04)], (196, 224, 240))
    pen.rect(-0.98, 0.04, 0.98, 0.6, s.primary, body=True, r=0.15)
    pen.paint_pattern(s)
    r = 0.23 + 0.05 * wheel
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.64, r, r, (50, 48, 52))
        pen.dot(x, 0.64, r * 0.45, s.trim)
    pen.dot(0.88, 0.24, 0.09, (255, 240, 170))
    return {"top": ((x0 + x1) / 2, roof + 0.04, 0.34), "eyes": (0.5, 0.2, 0.36), "neck": (0.0, 0.3, 0.6)}


def _mug(pen: _Pen, s: Individual) -> Anchors:
    tall, wide, handle, taper = s.proportions
    top, w = -0.55 - 0.15 * tall, 0.5 + 0.09 * wide
    b = w - 0.06 + 0.07 * taper
    hr = 0.26 + 0.06 * handle
    pen.ellipse(w + 0.08, 0.1, hr, hr + 0.08, s.secondary)
    pen.ellipse(w + 0.08, 0.1, hr - 0.13, hr - 0.05, (222, 222, 222))
    pen.polygon([(-w, top), (w, top), (b, 0.85), (-b, 0.85)], s.primary, body=True)
    pen.paint_pattern(s)
    pen.ellipse(0, top, w, 0.14, s.trim)
    _eyes(pen, 0, 0.0, 0.18, 0.06)
    return {"top": (0, top + 0.02, 0.38), "eyes": (0, 0.0, 0.4), "neck": (0, 0.5, 0.54)}


def _robot(pen: _Pen, s: Individual) -> Anchors:
    head, wide, leg, arm = s.proportions
    hw, bw = 0.36 + 0.08 * head, 0.42 + 0.1 * wide
    hip = 0.55 - 0.1 * leg
    for side in (-1, 1):
        pen.rect(side * 0.2 - 0.11, hip - 0.05, side * 0.2 + 0.11, 0.95, s.trim)
        pen.rect(side * (bw + 0.12) - 0.1, -0.1, side * (bw + 0.12) + 0.1, 0.4 + 0.14 * arm, s.secondary)
    pen.rect(-bw, -0.18, bw, hip, s.primary, body=True)
    pen.paint_pattern(s)
    pen.line([(0, -0.7), (0, -0.9)], s.trim, 0.06)
    pen.rect(-hw, -0.72, hw, -0.2, s.primary, r=0.08)
    _eyes(pen, 0, -0.5, 0.16, 0.075)
    pen.rect(-0.18, -0.34, 0.18, -0.26, s.trim)
    return {"top": (0, -0.68, 0.34), "eyes": (0, -0.5, 0.38), "neck": (0, -0.14, 0.4)}


def _house(pen: _Pen, s: Individual) -> Anchors:
    wide, tall, roof, door = s.proportions
    w, wall = 0.62 + 0.12 * wide, -0.1 - 0.1 * tall
    peak = wall - 0.55 - 0.14 * roof
    pen.rect(-w, wall, w, 0.9, s.primary, body=True)
    pen.paint_pattern(s)
    pen.polygon([(-w - 0.16, wall + 0.03), (0, peak), (w + 0.16, wall + 0.03)], s.secondary)
    pen.rect(-0.16 + 0.2 * door, 0.42, 0.16 + 0.2 * door, 0.9, s.trim)
    for side in (-1, 1):
        pen.rect(side * 0.36 - 0.13, wall + 0.14, side * 0.36 + 0.13, wall + 0.4, (250, 236, 160))
    return {"top": (0, peak + 0.12, 0.32), "eyes": (0, wall + 0.27, 0.44), "neck": (0, wall + 0.1, 0.62)}


_CLASSES: dict[str, Callable[[_Pen, Individual], Anchors]] = {
    "dog": _dog, "cat": _cat, "bird": _bird, "fish": _fish, "car": _car, "mug": _mug, "robot": _robot, "house": _house,
}  # fmt: skip


def _hat(pen: _Pen, anchors: Anchors, rgb: RGB) -> None:
    x, y, w = anchors["top"]
    pen.rect(x - w * 0.85, y - 0.5, x + w * 0.85, y, rgb)
    pen.rect(x - w * 1.5, y - 0.08, x + w * 1.5, y + 0.08, rgb)


def _crown(pen: _Pen, anchors: Anchors, rgb: RGB) -> None:
    x, y, w = anchors["top"]
    w *= 1.15
    top = y - 0.5
    zigzag = [(x - w, top), (x - w / 2, y - 0.2), (x, top), (x + w / 2, y - 0.2), (x + w, top)]
    pen.polygon([(x - w, y + 0.04), *zigzag, (x + w, y + 0.04)], rgb)


def _scarf(pen: _Pen, anchors: Anchors, rgb: RGB) -> None:
    x, y, w = anchors["neck"]
    pen.rect(x + w * 0.35, y, x + w * 0.35 + 0.24, y + 0.5, rgb, r=0.04)
    pen.rect(x - w, y - 0.13, x + w, y + 0.13, rgb, r=0.12)


def _glasses(pen: _Pen, anchors: Anchors, rgb: RGB) -> None:
    x, y, w = anchors["eyes"]
    r = 0.24
    pen.line([(x - w, y), (x + w, y)], rgb, 0.06)
    for side in (-1, 1):
        pen.ellipse(x + side * max(w * 0.62, r), y, r, r, rgb)
        pen.dot(x + side * max(w * 0.62, r), y, r * 0.42, (40, 40, 48))


_ACCESSORIES: dict[str, Callable[[_Pen, Anchors, RGB], None]] = {
    "hat": _hat, "crown": _crown, "scarf": _scarf, "glasses": _glasses,
}  # fmt: skip
