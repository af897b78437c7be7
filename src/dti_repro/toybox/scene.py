"""What a toybox picture shows: objects with continuous instance appearance, attributes, and their arrangement.

A scene is data only; :mod:`dti_repro.toybox.drawing` renders it and :mod:`dti_repro.toybox.language` describes it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CLASSES = ("dog", "cat", "bird", "fish", "car", "mug", "robot", "house")
COLORS = ("red", "yellow", "green", "blue", "purple", "white")
PATTERNS = ("plain", "striped", "spotted", "banded")
ACCESSORIES = ("hat", "crown", "scarf", "glasses")
OTHERS = ("ball", "box", "star", "flower", "umbrella", "kite")
BACKGROUNDS = ("beach", "snow", "forest", "city", "night", "grass", "desert", "room")
RELATIONS = ("left", "right", "above", "below")  # where the subject is, seen from the other object

# The reader's heads, in the order in which its outputs are concatenated.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "color": COLORS,
    "background": BACKGROUNDS,
    "accessory": ("none", *ACCESSORIES),
    "accessory_color": COLORS,
    "other": ("none", *OTHERS),
    "other_color": COLORS,
    "relation": RELATIONS,
}

# Hue centre, hue half width, saturation range, value range. Gaps between the names keep every colour readable.
_COLOR_RANGES = {
    "red": (0.0, 0.02, (0.75, 0.95), (0.75, 0.95)),
    "yellow": (0.145, 0.02, (0.75, 0.95), (0.85, 1.0)),
    "green": (0.36, 0.04, (0.65, 0.9), (0.5, 0.75)),
    "blue": (0.6, 0.035, (0.7, 0.95), (0.7, 0.95)),
    "purple": (0.8, 0.03, (0.5, 0.8), (0.55, 0.8)),
    "white": (0.1, 0.5, (0.0, 0.06), (0.9, 1.0)),
}

RGB = tuple[int, int, int]


def named_color(name: str, rng: np.random.Generator) -> RGB:
    """One shade of a named colour, 0-255 a channel."""
    hue, width, saturation, value = _COLOR_RANGES[name]
    h = (hue + rng.uniform(-width, width)) % 1.0
    r, g, b = colorsys.hsv_to_rgb(h, rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * r), round(255 * g), round(255 * b)


@dataclass(frozen=True)
class Instance:
    """One individual of a class. Only class, colour name and pattern have words; the rest is what a word cannot say."""

    cls: str
    color: str
    pattern: str
    primary: RGB
    secondary: RGB
    trim: RGB  # legs, wheels, roof, beak
    scale: float  # of the pattern, in [0, 1]
    angle: float  # of the pattern, radians
    phase: float  # of the pattern, in [0, 1]
    proportions: tuple[float, float, float, float]  # each in [-1, 1]


@dataclass(frozen=True)
class Scene:
    """A subject before a background, perhaps with an accessory and a second object. Unit of lengths: the image side."""

    subject: Instance
    background: str
    accessory: str = "none"
    accessory_color: str = ""
    accessory_rgb: RGB = (0, 0, 0)
    other: str = "none"
    other_color: str = ""
    other_rgb: RGB = (0, 0, 0)
    relation: str = ""
    subject_at: tuple[float, float] = (0.5, 0.55)
    subject_size: float = 0.5
    other_at: tuple[float, float] = (0.8, 0.6)
    other_size: float = 0.26
    backdrop_seed: int = 0

    def attributes(self) -> dict[str, str]:
        """Attribute name -> value; attributes that the scene lacks (the colour of no hat) are left out."""
        named = {
            "class": self.subject.cls,
            "color": self.subject.color,
            "background": self.background,
            "accessory": self.accessory,
            "accessory_color": self.accessory_color,
            "other": self.other,
            "other_color": self.other_color,
            "relation": self.relation,
        }
        return {key: value for key, value in named.items() if value}


def sample_instance(rng: np.random.Generator, cls: str | None = None) -> Instance:
    """An individual drawn at random; its second colour never carries the name of its first."""
    color = str(rng.choice(COLORS))
    second = str(rng.choice([name for name in COLORS if name != color]))
    return Instance(
        cls=cls or str(rng.choice(CLASSES)),
        color=color,
        pattern=str(rng.choice(PATTERNS)),
        primary=named_color(color, rng),
        secondary=named_color(second, rng),
        trim=_any_color(rng),
        scale=float(rng.uniform()),
        angle=float(rng.uniform(-0.7, 0.7)),
        phase=float(rng.uniform()),
        proportions=tuple(float(p) for p in rng.uniform(-1, 1, size=4)),  # type: ignore[arg-type]
    )


def _any_color(rng: np.random.Generator) -> RGB:
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.9))
    return round(255 * r), round(255 * g), round(255 * b)


Point = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How scenes are arranged. ``place`` maps (relation or "", accessory, six numbers in [-1, 1]) to where the
    subject is, its size, and where the other object is."""

    accessory_share: float
    other_share: float
    other_size: float
    place: Callable[[str, str, np.ndarray], tuple[Point, float, Point]]


def _small_subjects(relation: str, accessory: str, jitter: np.ndarray) -> tuple[Point, float, Point]:
    if not relation:
        return (0.5 + 0.09 * jitter[0], 0.57 + 0.05 * jitter[1]), 0.6 + 0.05 * jitter[2], (0.0, 0.0)
    side = {"left": -1, "right": 1}.get(relation, 0)
    if side:
        subject_at = (0.5 + side * (0.17 + 0.02 * jitter[0]), 0.57 + 0.05 * jitter[1])
        other_at = (0.5 - side * (0.32 + 0.02 * jitter[3]), 0.6 + 0.12 * jitter[4])
        return subject_at, 0.54 + 0.04 * jitter[2], other_at
    up = relation == "above"
    subject_at = (0.5 + 0.12 * jitter[0], (0.37 if up else 0.69) + 0.02 * jitter[1])
    other_at = (0.5 + 0.15 * jitter[3], (0.83 if up else 0.17) + 0.02 * jitter[4])
    return subject_at, 0.48 + 0.03 * jitter[2], other_at


SMALL_SUBJECTS = Style(accessory_share=0.45, other_share=0.6, other_size=0.28, place=_small_subjects)


def sample_scene(
    rng: np.random.Generator,
    subject: Instance | None = None,
    *,
    style: Style = SMALL_SUBJECTS,
    background: str | None = None,
    accessory: str | None = None,
    other: str | None = None,
    relation: str | None = None,
    accessory_color: str | None = None,
    other_color: str | None = None,
) -> Scene:
    """A scene drawn at random around ``subject``; what is given is kept ("none" = without)."""
    subject = subject or sample_instance(rng)
    background = background or str(rng.choice(BACKGROUNDS))
    if accessory is None:
        accessory = str(rng.choice(ACCESSORIES)) if rng.uniform() < style.accessory_share else "none"
    if other is None:
        other = str(rng.choice(OTHERS)) if rng.uniform() < style.other_share else "none"
    accessory_color = (accessory_color or str(rng.choice(COLORS))) if accessory != "none" else ""
    other_color = (other_color or str(rng.choice(COLORS))) if other != "none" else ""
    jitter = rng.uniform(-1, 1, size=6)
    relation = (relation or str(rng.choice(RELATIONS))) if other != "none" else ""
    subject_at, size, other_at = style.place(relation, accessory, jitter)
    return Scene(
        subject=subject,
        background=background,
        accessory=accessory,
        accessory_color=accessory_color,
        accessory_rgb=named_color(accessory_color, rng) if accessory_color else (0, 0, 0),
        other=other,
        other_color=other_color,
        other_rgb=named_color(other_color, rng) if other_color else (0, 0, 0),
        relation=relation,
        subject_at=(float(subject_at[0]), float(subject_at[1])),
        subject_size=float(size),
        other_at=(float(other_at[0]), float(other_at[1])),
        other_size=float(style.other_size + 0.02 * jitter[5]),
        backdrop_seed=int(rng.integers(2**31)),
    )
