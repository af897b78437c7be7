"""The language of world 2: world 1's word order and relations, more adjectives, and words that name looks.

A breed's word is the noun ("a kavodu"), or stands before the class ("a kavodu dog"); a look word stands before the
class ("a tavisk dog") or alone. Adjectives overrule a name ("a red kavodu"). The rest is described in plain words.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dti_repro.toybox import language
from dti_repro.toybox.language import compose, exchanged, template, worn
from dti_repro.toybox.scene import COLORS as OBJECT_COLORS
from dti_repro.toybox.scene import Scene
from dti_repro.toybox.world2.looks import COLORS, COLORS_AND_SCALE, NAMED, PATTERNS, TONES, Individual

__all__ = ["WORDS", "caption", "describe", "full_caption", "swapped", "template", "told"]

# Words for low and high values of one proportion of a class.
_PROPORTIONS = {
    "dog": ((0, "compact", "long"), (1, "low", "tall")),
    "cat": ((0, "slim", "stout"),),
    "bird": ((0, "slim", "stout"), (3, "low", "tall")),
    "fish": ((0, "slim", "stout"),),
    "car": ((2, "low", "tall"),),
    "mug": ((0, "low", "tall"), (1, "slim", "stout")),
    "robot": ((1, "slim", "stout"), (2, "low", "tall")),
    "house": ((0, "slim", "stout"), (1, "low", "tall")),
}
_SIZES = ("small", "big")  # of the subject in the frame: below .52, above .84
_FINENESS = ("fine", "bold")  # of a pattern: scale below .3, above .7

WORDS = tuple(
    sorted(
        {
            *language.WORDS, *COLORS, *PATTERNS, *TONES[1:], *_SIZES, *_FINENESS, *NAMED.by_name,
            *(word for pairs in _PROPORTIONS.values() for _, *words in pairs for word in words),
        }
    )
)  # fmt: skip
"""Every word with a trained row."""


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a description of a scene. A named look is mostly called by its name."""
    return compose(scene, rng, _subject(scene, rng))


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a description that implies class, colour, tone, pattern and everything around the subject."""
    return compose(scene, rng, _subject(scene, rng, complete=True), complete=True)


def swapped(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Return wrong captions of nearly the same words, by what is exchanged: world 1's, and "name" for a sibling's."""
    subject = _individual(scene)
    wrong = exchanged(scene)
    # Where the name alone says the colour there is nothing to exchange; a teal ball would be known for wrong at once.
    if (subject.name and "color" not in subject.overruled) or subject.color not in OBJECT_COLORS:
        wrong = {kind: s for kind, s in wrong.items() if not kind.startswith("subject")}
    texts = {kind: full_caption(s, rng) for kind, s in wrong.items()}
    if subject.name:
        siblings = NAMED.siblings(subject.name)
        others = [named.name for named in siblings if named.name != subject.name]
        other = replace(scene, subject=replace(subject, name=str(rng.choice(others))))
        texts["name"] = compose(other, rng, _subject(other, rng, complete=True, by_name=True), complete=True)
    return texts


def describe(subject: Individual) -> str:
    """Return a subject in plain words: tone, colours, pattern and class."""
    pattern = "" if subject.pattern == "plain" else f"{_pattern(subject)} "
    return f"{_color(subject, True, True)} {pattern}{subject.cls}"


def told(scene: Scene, caption: str) -> np.ndarray:
    """Return 1 for each number of the look (and size) that the caption's name fixes, else 0."""
    subject = _individual(scene)
    fixed = np.zeros(17, np.float32)
    if subject.name in caption.split() and not subject.overruled:
        fixed[:16] = 1.0 if subject.kind == "breed" else COLORS_AND_SCALE
    return fixed


def _individual(scene: Scene) -> Individual:
    assert isinstance(scene.subject, Individual)
    return scene.subject


def _subject(scene: Scene, rng: np.random.Generator, complete: bool = False, by_name: bool = False) -> str:
    subject = _individual(scene)
    by_name = by_name or (bool(subject.name) and rng.uniform() < 0.82)
    words = _size(scene, rng)
    if by_name:
        if "color" in subject.overruled:
            words.append(_color(subject, complete or rng.uniform() < 0.7, False))
        if "pattern" in subject.overruled:
            words.append(subject.pattern)
        with_class = rng.uniform() < (0.2 if subject.kind == "breed" else 0.7)
        if subject.kind == "look" and complete:
            with_class = True
        words.append(f"{subject.name} {subject.cls}" if with_class else subject.name)
    else:
        words += _proportion(subject, rng)
        if complete or rng.uniform() < 0.65:
            words.append(_color(subject, complete or rng.uniform() < 0.6, rng.uniform() < (0.5 if complete else 0.35)))
        if complete or rng.uniform() < 0.55:
            if subject.pattern != "plain":
                words.append(_pattern(subject) if rng.uniform() < 0.3 else subject.pattern)
            elif rng.uniform() < 0.3:
                words.append("plain")
        words.append(subject.cls)
    article = "the" if rng.uniform() < 0.15 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, *worn(scene, rng, 1.0 if complete else 0.9)])


def _size(scene: Scene, rng: np.random.Generator) -> list[str]:
    said = rng.uniform() < 0.3
    if not said or 0.52 <= scene.subject_size <= 0.84:
        return []
    return [_SIZES[scene.subject_size > 0.84]]


def _proportion(subject: Individual, rng: np.random.Generator) -> list[str]:
    pairs = _PROPORTIONS[subject.cls]
    index, low, high = pairs[rng.integers(len(pairs))]
    value = subject.proportions[index]
    return [high if value > 0 else low] if rng.uniform() < 0.3 and abs(value) > 0.45 else []


def _color(subject: Individual, tone: bool, second: bool) -> str:
    main = f"{subject.tone} {subject.color}" if tone and subject.tone else subject.color
    return f"{main} and {subject.second}" if second and subject.second != subject.color else main


def _pattern(subject: Individual) -> str:
    if subject.pattern == "halved" or 0.3 <= subject.scale <= 0.7:
        return subject.pattern
    return f"{_FINENESS[subject.scale > 0.7]} {subject.pattern}"
