"""The scenes of world 2: subjects fill most of the frame in most pictures, and half of them have a name."""

from __future__ import annotations

from typing import Any

import numpy as np

from dti_repro.toybox import scene
from dti_repro.toybox.scene import CLASSES, Instance, Point, Scene, Style
from dti_repro.toybox.world2 import looks
from dti_repro.toybox.world2.looks import COLORS, NAMED, PATTERNS, TONES, Individual

BREED_SHARE, LOOK_SHARE = 0.5, 0.2
OVERRULED_SHARE = 0.2  # of the named individuals
ATTRIBUTES = {**scene.ATTRIBUTES, "color": COLORS, "pattern": PATTERNS}
FACTS = {**ATTRIBUTES, "tone": TONES}


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


def _large_subjects(relation: str, accessory: str, jitter: np.ndarray) -> tuple[Point, float, Point]:
    """Place a subject: alone at .42 to 1.0 of the frame (three quarters above .72), beside something at .54 to .7."""
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


LARGE_SUBJECTS = Style(accessory_share=0.28, other_share=0.45, other_size=0.26, place=_large_subjects)


def sample_scene(rng: np.random.Generator, subject: Instance | None = None, **given: Any) -> Scene:
    """Return a scene drawn at random around ``subject``; what is ``given`` (a background, ...) is kept."""
    return scene.sample_scene(rng, subject or sample_individual(rng), style=LARGE_SUBJECTS, **given)


def values(scene: Scene) -> dict[str, str]:
    """Return the label of every fact that the scene has."""
    subject = scene.subject
    assert isinstance(subject, Individual)
    return {**scene.attributes(), "pattern": subject.pattern, "tone": subject.tone}


def look(scene: Scene) -> np.ndarray:
    """Return the numbers of the subject's look, and its size."""
    return np.append(looks.numbers(scene.subject), 4 * scene.subject_size - 3).astype(np.float32)
