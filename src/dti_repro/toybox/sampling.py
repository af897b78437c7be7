"""Draws scenes at random: subjects fill most of the frame in most of them, and half of the subjects have a name."""

from __future__ import annotations

import colorsys

import numpy as np

from dti_repro.toybox import looks
from dti_repro.toybox.looks import NAMED
from dti_repro.toybox.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    OBJECT_COLORS,
    OTHERS,
    RELATIONS,
    RGB,
    Individual,
    Scene,
)

WORLD = 2  # part of every scene's seed; world 1 is the toybox of before (PROTOCOL.md)
BREED_SHARE, LOOK_SHARE = 0.5, 0.2
OVERRULED_SHARE = 0.2  # of the named individuals
ACCESSORY_SHARE, OTHER_SHARE = 0.28, 0.45
OTHER_SIZE = 0.26  # of the image side

# Hue centre, hue half width, saturation range, value range. Gaps between the names keep every colour readable.
_COLOR_RANGES = {
    "red": (0.0, 0.02, (0.75, 0.95), (0.75, 0.95)),
    "yellow": (0.145, 0.02, (0.75, 0.95), (0.85, 1.0)),
    "green": (0.36, 0.04, (0.65, 0.9), (0.5, 0.75)),
    "blue": (0.6, 0.035, (0.7, 0.95), (0.7, 0.95)),
    "purple": (0.8, 0.03, (0.5, 0.8), (0.55, 0.8)),
    "white": (0.1, 0.5, (0.0, 0.06), (0.9, 1.0)),
}

Point = tuple[float, float]


def scene_of(stream: int, index: int) -> Scene:
    """Return scene ``index`` of a stream."""
    return sample_scene(np.random.default_rng([WORLD, stream, index]))


def sample_scene(
    rng: np.random.Generator,
    subject: Individual | None = None,
    *,
    background: str | None = None,
    accessory: str | None = None,
    other: str | None = None,
    relation: str | None = None,
    accessory_color: str | None = None,
    other_color: str | None = None,
) -> Scene:
    """Return a scene drawn at random around ``subject``; what is given is kept ("none" = without)."""
    subject = subject or sample_individual(rng)
    background = background or str(rng.choice(BACKGROUNDS))
    if accessory is None:
        accessory = str(rng.choice(ACCESSORIES)) if rng.uniform() < ACCESSORY_SHARE else "none"
    if other is None:
        other = str(rng.choice(OTHERS)) if rng.uniform() < OTHER_SHARE else "none"
    accessory_color = (accessory_color or str(rng.choice(OBJECT_COLORS))) if accessory != "none" else ""
    other_color = (other_color or str(rng.choice(OBJECT_COLORS))) if other != "none" else ""
    jitter = rng.uniform(-1, 1, size=6)
    relation = (relation or str(rng.choice(RELATIONS))) if other != "none" else ""
    subject_at, size, other_at = _place(relation, accessory, jitter)
    return Scene(
        subject=subject,
        background=background,
        accessory=accessory,
        accessory_color=accessory_color,
        accessory_rgb=_object_shade(accessory_color, rng) if accessory_color else (0, 0, 0),
        other=other,
        other_color=other_color,
        other_rgb=_object_shade(other_color, rng) if other_color else (0, 0, 0),
        relation=relation,
        subject_at=(float(subject_at[0]), float(subject_at[1])),
        subject_size=float(size),
        other_at=(float(other_at[0]), float(other_at[1])),
        other_size=float(OTHER_SIZE + 0.02 * jitter[5]),
        backdrop_seed=int(rng.integers(2**31)),
    )


def sample_individual(rng: np.random.Generator) -> Individual:
    """Return an individual of a breed, of a look word, or of no name."""
    drawn = rng.uniform()
    if drawn < BREED_SHARE:
        group = NAMED.breeds[str(rng.choice(CLASSES))]
        individual = group[rng.integers(len(group))].sample(rng)
    elif drawn < BREED_SHARE + LOOK_SHARE:
        individual = NAMED.looks[rng.integers(len(NAMED.looks))].sample(rng)
    else:
        return looks.sample_free(rng)
    if rng.uniform() < OVERRULED_SHARE:
        individual = looks.overrule(individual, "color" if rng.uniform() < 0.6 else "pattern", rng)
    return individual


def _place(relation: str, accessory: str, jitter: np.ndarray) -> tuple[Point, float, Point]:
    """Place a subject: alone at .42 to 1.0 of the frame (three quarters above .72), and .86 times that with an
    accessory; beside something at .51 to .69."""
    wearing = accessory != "none"
    if not relation:
        share = (jitter[2] + 1) / 2
        size = 0.42 + 1.2 * share if share < 0.25 else 0.72 + (share - 0.25) * 0.28 / 0.75
        room = max(0.0, 0.5 - size / 2) + 0.02
        if wearing:  # a hat stands out of the subject's box
            size *= 0.86
        at = (0.5 + room * jitter[0], (0.56 if wearing else 0.51) + 0.6 * room * jitter[1])
        return at, size, (0.0, 0.0)
    side = {"left": -1, "right": 1}.get(relation, 0)
    if side:
        subject_at = (0.5 + side * (0.16 + 0.02 * jitter[0]), 0.55 + 0.05 * jitter[1])
        other_at = (0.5 - side * (0.36 + 0.01 * jitter[3]), 0.6 + 0.14 * jitter[4])
        return subject_at, 0.64 + 0.05 * jitter[2], other_at
    up = relation == "above"
    subject_at = (0.5 + 0.12 * jitter[0], ((0.4 if wearing else 0.36) if up else 0.68) + 0.01 * jitter[1])
    other_at = (0.5 + 0.2 * jitter[3], (0.86 if up else 0.14) + 0.01 * jitter[4])
    return subject_at, (0.54 if wearing else 0.6) + 0.03 * jitter[2], other_at


def _object_shade(name: str, rng: np.random.Generator) -> RGB:
    """Return one shade of a named colour of accessories and second objects, 0-255 a channel."""
    hue, width, saturation, value = _COLOR_RANGES[name]
    h = (hue + rng.uniform(-width, width)) % 1.0
    r, g, b = colorsys.hsv_to_rgb(h, rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * r), round(255 * g), round(255 * b)


def look(scene: Scene) -> np.ndarray:
    """Return the numbers of the subject's look, and its size."""
    return np.append(looks.numbers(scene.subject), 4 * scene.subject_size - 3).astype(np.float32)
