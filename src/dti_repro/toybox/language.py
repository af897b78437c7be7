"""The toybox's language: captions in which position carries meaning.

``a red dog left of a blue ball`` and ``a blue dog left of a red ball`` use the same words; so do
``a dog left of a ball`` and ``a ball left of a dog``. Word order is free: the subject comes first or second, the place
first or last.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dti_repro.toybox.scene import ACCESSORIES, BACKGROUNDS, CLASSES, COLORS, OTHERS, PATTERNS, Instance, Scene

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

WORDS = tuple(
    sorted(
        {
            *CLASSES, *COLORS, *PATTERNS[1:], *ACCESSORIES, *OTHERS, *BACKGROUNDS, "plain",
            *(w for phrases in (*PLACES.values(), *RELATION_PHRASES.values()) for p in phrases for w in p.split()),
            *(w for opening in OPENINGS for w in opening.split()), *_WEARING,
            "a", "an", "the", "and", "next", "to", ",",
        }
    )
)  # fmt: skip
"""Every word with a trained row. The tokenizer knows single letters besides, whose rows are zero: unknown words."""


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describes a scene. What stands beside the subject is always named; colours, pattern and place often are."""
    return compose(scene, rng, _subject(scene, rng))


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describes everything that has a word."""
    return compose(scene, rng, _subject(scene, rng, color=1.0, pattern=1.0, accessory_color=1.0), complete=True)


def swapped(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """Wrong captions of (nearly) the same words, by what is exchanged in them. Empty where nothing can be."""
    return {kind: full_caption(s, rng) for kind, s in exchanged(scene).items()}


def exchanged(scene: Scene) -> dict[str, Scene]:
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


def template(scene: Scene, rng: np.random.Generator, order: float) -> str:
    """A prompt that asks for everything in the scene and leaves the subject itself open: ``{}`` takes its word.

    ``order`` in [0, 1): below .45 the subject is named first, below .75 the other object, above it the relation.
    """
    open_scene = replace(scene, subject=replace(scene.subject, cls="{}"))
    return compose(
        open_scene, rng, _subject(open_scene, rng, color=0.0, pattern=0.0, accessory_color=1.0), complete=True
    )


def describe(subject: Instance) -> str:
    """A subject in the world's own words: colour, pattern and class."""
    pattern = "" if subject.pattern == "plain" else f"{subject.pattern} "
    return f"{subject.color} {pattern}{subject.cls}"


def _subject(
    scene: Scene,
    rng: np.random.Generator,
    color: float = 0.6,
    pattern: float = 0.5,
    accessory_color: float = 0.9,
) -> str:
    words = ["the" if rng.uniform() < 0.15 else "a"]
    if rng.uniform() < color:
        words.append(scene.subject.color)
    if rng.uniform() < pattern and (scene.subject.pattern != "plain" or rng.uniform() < 0.3):
        words.append(scene.subject.pattern)
    words.append(scene.subject.cls)
    words += worn(scene, rng, accessory_color)
    return " ".join(words)


def worn(scene: Scene, rng: np.random.Generator, color: float) -> list[str]:
    """Return the words for what the subject wears, with the colour at a chance of ``color``; none for nothing."""
    if scene.accessory == "none":
        return []
    article = "" if scene.accessory == "glasses" else "a "
    shade = f"{scene.accessory_color} " if rng.uniform() < color else ""
    return [f"{rng.choice(_WEARING)} {article}{shade}{scene.accessory}"]


def compose(
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
