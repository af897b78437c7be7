"""The toybox's language: captions in which position carries meaning, and words that name looks.

``a red dog left of a blue ball`` and ``a blue dog left of a red ball`` use the same words; so do ``a dog left of a
ball`` and ``a ball left of a dog``. Word order is free: the subject comes first or second, the place first or last.
A breed's word is the noun ("a kavodu"), or stands before the class ("a kavodu dog"); a look word stands before the
class ("a tavisk dog") or alone. Adjectives overrule a name ("a red kavodu"). The rest is described in plain words.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dti_repro.toybox.looks import COLORS_AND_SCALE, NAMED
from dti_repro.toybox.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLORS,
    OBJECT_COLORS,
    OTHERS,
    PATTERNS,
    TONES,
    Individual,
    Scene,
)

PLACES = {
    "beach": ("on the beach", "at the beach"),
    "snow": ("in the snow",),
    "forest": ("in the forest", "in a forest"),
    "city": ("in the city", "in a city"),
    "night": ("at night",),
    "grass": ("on the grass",),
    "desert": ("in the desert", "in a desert"),
    "room": ("in a room", "in the room"),
}
RELATION_PHRASES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OPENINGS = ("a photo of", "a picture of", "a drawing of", "an image of", "this is", "there is", "")
_WEARING = ("wearing", "with", "in")

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
            *CLASSES, *COLORS, *TONES[1:], *PATTERNS, *_SIZES, *_FINENESS, *NAMED.by_name,
            *(word for pairs in _PROPORTIONS.values() for _, *words in pairs for word in words),
            *ACCESSORIES, *OTHERS, *BACKGROUNDS,
            *(w for phrases in (*PLACES.values(), *RELATION_PHRASES.values()) for p in phrases for w in p.split()),
            *(w for opening in OPENINGS for w in opening.split()), *_WEARING,
            "a", "an", "the", "and", "next", "to", ",",
        }
    )
)  # fmt: skip
"""Every word with a trained row. The tokenizer knows single letters besides, whose rows are zero: unknown words."""


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a description of a scene. A named look is mostly called by its name."""
    return _compose(scene, rng, _subject(scene, rng))


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a description that implies class, colour, tone, pattern and everything around the subject."""
    return _compose(scene, rng, _subject(scene, rng, complete=True), complete=True)


def swapped(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Return wrong captions of nearly the same words, by what is exchanged; "name" puts a sibling's name.

    Empty where nothing can be exchanged.
    """
    subject = scene.subject
    wrong = _exchanged(scene)
    # Where the name alone says the colour there is nothing to exchange; a teal ball would be known for wrong at once.
    if (subject.name and "color" not in subject.overruled) or subject.color not in OBJECT_COLORS:
        wrong = {kind: s for kind, s in wrong.items() if not kind.startswith("subject")}
    texts = {kind: full_caption(s, rng) for kind, s in wrong.items()}
    if subject.name:
        siblings = NAMED.siblings(subject.name)
        others = [named.name for named in siblings if named.name != subject.name]
        other = replace(scene, subject=replace(subject, name=str(rng.choice(others))))
        texts["name"] = _compose(other, rng, _subject(other, rng, complete=True, by_name=True), complete=True)
    return texts


def template(scene: Scene, rng: np.random.Generator, order: float) -> str:
    """Return a prompt that asks for all that is around the subject and leaves the subject open: ``{}`` takes its word.

    ``order`` in [0, 1): below .45 the subject is named first, below .75 the other object, above it the relation.
    """
    subject = " ".join(["the" if rng.uniform() < 0.15 else "a", "{}", *_worn(scene, rng, 1.0)])
    return _compose(scene, rng, subject, complete=True, order=order)


def describe(subject: Individual) -> str:
    """Return a subject in plain words: tone, colours, pattern and class."""
    pattern = "" if subject.pattern == "plain" else f"{_pattern(subject)} "
    return f"{_color(subject, True, True)} {pattern}{subject.cls}"


def told(scene: Scene, caption: str) -> np.ndarray:
    """Return 1 for each number of the look (and size) that the caption's name fixes, else 0."""
    subject = scene.subject
    fixed = np.zeros(17, np.float32)
    if subject.name in caption.split() and not subject.overruled:
        fixed[:16] = 1.0 if subject.kind == "breed" else COLORS_AND_SCALE
    return fixed


def _compose(
    scene: Scene, rng: np.random.Generator, subject: str, complete: bool = False, order: float | None = None
) -> str:
    """Return a caption of the scene around ``subject``, the words for the subject and what it wears."""
    opening = str(rng.choice(OPENINGS))
    place = str(rng.choice(PLACES[scene.background])) if complete or rng.uniform() < 0.85 else ""
    drawn = rng.uniform()
    order = drawn if order is None else order
    if scene.other == "none":
        body = subject
    else:
        shade = f"{scene.other_color} " if complete or rng.uniform() < 0.9 else ""
        article = "an" if not shade and scene.other == "umbrella" else "a"
        other = f"{article} {shade}{scene.other}"
        said = rng.choice(RELATION_PHRASES[scene.relation])
        inverse = rng.choice(RELATION_PHRASES[INVERSE[scene.relation]])
        if order < 0.45:
            body = f"{subject} {said} {other}"
        elif order < 0.75:
            body = f"{other} {inverse} {subject}"
        elif order < 0.85 or complete:
            opening, body = "", f"{said} {other} , {subject}"
        elif order < 0.93:
            body = f"{subject} next to {other}"
        else:
            body = f"{other} and {subject}"
    if not place:
        return f"{opening} {body}".strip()
    if rng.uniform() < 0.2:
        return f"{place} , {body}"
    return f"{opening} {body} {place}".strip()


def _exchanged(scene: Scene) -> dict[str, Scene]:
    """Return scenes that differ from this one by one exchange, named by what is exchanged."""
    wrong: dict[str, Scene] = {}
    subject = scene.subject
    if scene.other != "none":
        wrong["relation"] = replace(scene, relation=INVERSE[scene.relation])
        if scene.other_color != subject.color:
            wrong["subject_and_other_color"] = replace(
                scene, other_color=subject.color, subject=replace(subject, color=scene.other_color)
            )
        if scene.accessory != "none" and scene.accessory_color != scene.other_color:
            wrong["accessory_and_other_color"] = replace(
                scene, other_color=scene.accessory_color, accessory_color=scene.other_color
            )
    if scene.accessory != "none" and scene.accessory_color != subject.color:
        wrong["subject_and_accessory_color"] = replace(
            scene, accessory_color=subject.color, subject=replace(subject, color=scene.accessory_color)
        )
    return wrong


def _subject(scene: Scene, rng: np.random.Generator, complete: bool = False, by_name: bool = False) -> str:
    subject = scene.subject
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
    return " ".join([article, *words, *_worn(scene, rng, 1.0 if complete else 0.9)])


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


def _worn(scene: Scene, rng: np.random.Generator, color: float) -> list[str]:
    """Return the words for what the subject wears, with the colour at a chance of ``color``; none for nothing."""
    if scene.accessory == "none":
        return []
    article = "" if scene.accessory == "glasses" else "a "
    shade = f"{scene.accessory_color} " if rng.uniform() < color else ""
    return [f"{rng.choice(_WEARING)} {article}{shade}{scene.accessory}"]
