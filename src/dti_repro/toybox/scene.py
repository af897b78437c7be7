"""What a toybox picture shows: an individual, what it wears, a second object, a background, and their arrangement.

A scene is data only: :mod:`dti_repro.toybox.sampling` draws one at random, :mod:`dti_repro.toybox.drawing` renders it
and :mod:`dti_repro.toybox.language` describes it.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = ("dog", "cat", "bird", "fish", "car", "mug", "robot", "house")
HUES = {"red": 0.0, "orange": 0.075, "yellow": 0.145, "green": 0.36, "teal": 0.49, "blue": 0.6, "purple": 0.8}
COLORS = (*HUES, "white", "grey")  # of a subject
TONES = ("", "dark", "pale")  # of a hue; white and grey have one tone
PATTERNS = ("plain", "striped", "spotted", "banded", "checked", "halved")
OBJECT_COLORS = ("red", "yellow", "green", "blue", "purple", "white")  # of accessories and second objects
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
    "accessory_color": OBJECT_COLORS,
    "other": ("none", *OTHERS),
    "other_color": OBJECT_COLORS,
    "relation": RELATIONS,
    "pattern": PATTERNS,
}
FACTS = {**ATTRIBUTES, "tone": TONES}
"""What a complete caption tells: name -> labels."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Individual:
    """One individual of a class: what it looks like, and which words apply to it."""

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
    tone: str = ""  # of the main colour
    second: str = ""  # name of the second colour
    name: str = ""  # its breed or look word, "" for most individuals outside all regions
    kind: str = ""  # of the name: "breed" or "look"
    overruled: tuple[str, ...] = ()  # "color", "pattern": what differs from what the name means


@dataclass(frozen=True)
class Scene:
    """A subject before a background, perhaps with an accessory and a second object. Unit of lengths: the image side."""

    subject: Individual
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
        """Return attribute name -> value; attributes that the scene lacks (the colour of no hat) are left out."""
        named = {
            "class": self.subject.cls,
            "color": self.subject.color,
            "background": self.background,
            "accessory": self.accessory,
            "accessory_color": self.accessory_color,
            "other": self.other,
            "other_color": self.other_color,
            "relation": self.relation,
            "pattern": self.subject.pattern,
        }
        return {key: value for key, value in named.items() if value}

    def facts(self) -> dict[str, str]:
        """Return fact name -> value: the attributes and the tone of the subject's main colour."""
        return {**self.attributes(), "tone": self.subject.tone}
