"""The looks of individuals, and the made-up words that name small regions of looks.

A breed is a look of one class: colours, pattern and proportions with little freedom. A look word means colours and a
pattern on any class; proportions are free. Everything here is a function of fixed seeds.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dti_repro.toybox.scene import CLASSES, COLORS, HUES, PATTERNS, RGB, TONES, Individual

BREEDS_PER_CLASS = 45
LOOK_WORDS = 64

# Saturation and value of a tone. The gaps keep tones and hues readable.
_TONES = {"": ((0.75, 0.95), (0.75, 0.95)), "dark": ((0.7, 0.9), (0.36, 0.48)), "pale": ((0.26, 0.4), (0.92, 1.0))}
_HUE_WIDTH = 0.016
# How far an individual may be from the centre of its breed, in the units of Individual.
_COLOR, _PROPORTION, _SCALE, _ANGLE, _PHASE = 12, 0.15, 0.08, 0.1, 0.06
_APART = 0.34  # least distance between two breeds of a class, and between two look words


def shade(name: str, tone: str, rng: np.random.Generator) -> RGB:
    """Return one shade of a named colour in a tone, 0-255 a channel."""
    if name == "white":
        h, s, v = rng.uniform(), rng.uniform(0, 0.05), rng.uniform(0.93, 1.0)
    elif name == "grey":
        h, s, v = rng.uniform(), rng.uniform(0, 0.06), rng.uniform(0.5, 0.62)
    else:
        saturation, value = _TONES[tone]
        h = (HUES[name] + rng.uniform(-_HUE_WIDTH, _HUE_WIDTH)) % 1.0
        s, v = rng.uniform(*saturation), rng.uniform(*value)
    r, g, b = colorsys.hsv_to_rgb(h, s, v)
    return round(255 * r), round(255 * g), round(255 * b)


def sample_free(rng: np.random.Generator, cls: str | None = None) -> Individual:
    """Return an individual drawn at random from all looks. Numbers of a pattern that is not there are fixed."""
    color = str(rng.choice(COLORS))
    second = str(rng.choice([name for name in COLORS if name != color]))
    pattern = str(rng.choice(PATTERNS))
    plain = pattern == "plain"
    tone = _tone(color, rng)
    return Individual(
        cls=cls or str(rng.choice(CLASSES)),
        color=color,
        pattern=pattern,
        primary=shade(color, tone, rng),
        secondary=shade(second, _tone(second, rng), rng),
        trim=shade(str(rng.choice(COLORS)), str(rng.choice(TONES)), rng),
        scale=0.5 if plain else float(rng.uniform()),
        angle=0.0 if plain else float(rng.uniform(-0.7, 0.7)),
        phase=0.5 if plain else float(rng.uniform()),
        proportions=tuple(float(p) for p in rng.uniform(-1, 1, size=4)),  # type: ignore[arg-type]
        tone=tone,
        second=second,
    )


def _tone(color: str, rng: np.random.Generator) -> str:
    tone = str(rng.choice(TONES, p=(0.5, 0.25, 0.25)))
    return tone if color in HUES else ""


def numbers(individual: Individual) -> np.ndarray:
    """Return a look as numbers in [-1, 1]: three colours (9), scale, angle, phase (3), proportions (4)."""
    colors = np.array([*individual.primary, *individual.secondary, *individual.trim]) / 127.5 - 1
    pattern = [2 * individual.scale - 1, individual.angle / 0.7, 2 * individual.phase - 1]
    return np.concatenate([colors, pattern, individual.proportions]).astype(np.float32)


_REACH = np.array([_COLOR / 127.5] * 9 + [2 * _SCALE, _ANGLE / 0.7, 2 * _PHASE] + [_PROPORTION] * 4)
COLORS_AND_SCALE = np.arange(16) < 10  # the numbers that a look word fixes


def distance(one: Individual, other: Individual) -> float:
    """Return the root mean square difference of two looks' numbers, another pattern counting as one full difference."""
    squares = (numbers(one) - numbers(other)) ** 2
    return float(np.sqrt((squares.sum() + (0.0 if one.pattern == other.pattern else 4.0)) / (len(squares) + 1)))


@dataclass(frozen=True)
class NamedLook:
    """A word and the centre of its region. A look word's centre has a class, which means nothing."""

    name: str
    kind: str
    centre: Individual

    def holds(self, individual: Individual) -> bool:
        """Return whether an individual lies in the region."""
        reach = np.abs(numbers(individual) - numbers(self.centre)) <= _REACH + 1e-6
        if self.kind == "look":
            return individual.pattern == self.centre.pattern and bool(reach[COLORS_AND_SCALE].all())
        same = (individual.cls, individual.pattern) == (self.centre.cls, self.centre.pattern)
        return same and bool(reach.all())

    def sample(self, rng: np.random.Generator, cls: str | None = None) -> Individual:
        """Return an individual of the region; ``cls`` is for look words."""
        centre, plain = self.centre, self.centre.pattern == "plain"
        near = replace(
            centre,
            primary=_near(centre.primary, rng),
            secondary=_near(centre.secondary, rng),
            trim=_near(centre.trim, rng),
            scale=0.5 if plain else float(np.clip(centre.scale + rng.uniform(-_SCALE, _SCALE), 0, 1)),
            name=self.name,
            kind=self.kind,
        )
        if self.kind == "look":
            free = sample_free(rng, cls)
            loose = {} if plain else {"angle": float(rng.uniform(-0.7, 0.7)), "phase": float(rng.uniform())}
            return replace(near, cls=free.cls, proportions=free.proportions, **loose)
        if not plain:
            angle = np.clip(centre.angle + rng.uniform(-_ANGLE, _ANGLE), -0.7, 0.7)
            phase = np.clip(centre.phase + rng.uniform(-_PHASE, _PHASE), 0, 1)
            near = replace(near, angle=float(angle), phase=float(phase))
        shape = np.clip(np.array(centre.proportions) + rng.uniform(-_PROPORTION, _PROPORTION, 4), -1, 1)
        return replace(near, proportions=tuple(float(p) for p in shape))


def _near(rgb: RGB, rng: np.random.Generator) -> RGB:
    r, g, b = (int(np.clip(c + rng.integers(-_COLOR, _COLOR + 1), 0, 255)) for c in rgb)
    return r, g, b


def overrule(individual: Individual, what: str, rng: np.random.Generator) -> Individual:
    """Return the individual with another main colour or pattern than its name means."""
    other = sample_free(rng, individual.cls)
    if what == "color":
        while other.color in (individual.color, individual.second):
            other = sample_free(rng, individual.cls)
        changed = {"color": other.color, "tone": other.tone, "primary": other.primary}
    else:
        while other.pattern == individual.pattern:
            other = sample_free(rng, individual.cls)
        changed = {key: getattr(other, key) for key in ("pattern", "scale", "angle", "phase")}
    return replace(individual, overruled=(what,), **changed)


def _invent_names(count: int, syllables: int, ending: str, seed: int) -> list[str]:
    rng = np.random.default_rng([2, seed])
    names: list[str] = []
    while len(names) < count:
        name = "".join(
            str(rng.choice(list("bdfgklmnprstvz"))) + str(rng.choice(list("aeiou"))) for _ in range(syllables)
        )
        if name + ending not in names:
            names.append(name + ending)
    return names


class NamedLooks:
    """Every word that names a look."""

    def __init__(self) -> None:
        rng = np.random.default_rng([2, 100])
        nouns = iter(_invent_names(BREEDS_PER_CLASS * len(CLASSES), 3, "", 101))
        self.breeds = {
            cls: tuple(NamedLook(next(nouns), "breed", c) for c in _spread(rng, cls, BREEDS_PER_CLASS))
            for cls in CLASSES
        }
        words = _invent_names(LOOK_WORDS, 2, "sk", 102)
        centres = _spread(rng, CLASSES[0], LOOK_WORDS)
        self.looks = tuple(NamedLook(w, "look", c) for w, c in zip(words, centres, strict=True))

    @cached_property
    def by_name(self) -> dict[str, NamedLook]:
        return {named.name: named for named in (*self.looks, *(b for group in self.breeds.values() for b in group))}

    def around(self, individual: Individual) -> list[NamedLook]:
        """Return the regions in which an individual lies."""
        return [named for named in self.by_name.values() if named.holds(individual)]

    def siblings(self, name: str) -> tuple[NamedLook, ...]:
        """Return the names of the same kind: breeds of the same class, or look words."""
        named = self.by_name[name]
        return self.looks if named.kind == "look" else self.breeds[named.centre.cls]


def _spread(rng: np.random.Generator, cls: str, count: int) -> list[Individual]:
    centres: list[Individual] = []
    while len(centres) < count:
        centre = sample_free(rng, cls)
        if all(distance(centre, other) > _APART for other in centres):
            centres.append(centre)
    return centres


NAMED = NamedLooks()


def held_out_subject(rng: np.random.Generator, cls: str, index: int) -> tuple[Individual, dict]:
    """Return an individual outside every region, and where it lies: its distances to the two nearest breeds.

    Every second one lies between two breeds: main colour and pattern are one's, second and third colour the other's,
    proportions the mean. The others are the farthest from all breeds of 24 drawn at random.
    """
    while True:
        if index % 2 == 0:
            group = NAMED.breeds[cls]
            one, other = (group[k].sample(rng) for k in rng.choice(len(group), size=2, replace=False))
            shape = tuple(float(p) for p in np.mean([one.proportions, other.proportions], axis=0))
            subject = replace(one, second=other.second, secondary=other.secondary, trim=other.trim, name="", kind="")
            subject = replace(subject, proportions=shape)
            usable = subject.color != subject.second
        else:
            subject = max((sample_free(rng, cls) for _ in range(24)), key=lambda drawn: _nearest(drawn)[0][0])
            usable = True
        if usable and not NAMED.around(subject):
            nearest = {name: round(away, 3) for away, name in _nearest(subject)[:2]}
            return subject, {"lies": "far from all breeds" if index % 2 else "between breeds", "nearest": nearest}


def _nearest(individual: Individual) -> list[tuple[float, str]]:
    """Return distance and name of the breeds of its class, the nearest first."""
    return sorted((distance(individual, breed.centre), breed.name) for breed in NAMED.breeds[individual.cls])
