"""A concept from a folder of one's own photos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dti_repro.artifacts.run_dir import check_name
from dti_repro.config.values import Property
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.photos import list_photos
from dti_repro.errors import InputError


class Folder(ConceptSet):
    """`concepts=folder concepts.path=photos/rex concepts.initializer=dog`.

    path: folder of images. name: defaults to the folder's name, with `-` for spaces and punctuation. placeholder:
    defaults to `<name>`. class_word: what stands for the word in text scores, defaults to the initializer. property:
    object | style. live: a person or an animal, for which a prompt set may have prompts of its own.
    """

    def __init__(
        self,
        path: str | None,
        name: str | None = None,
        initializer: str | None = None,
        placeholder: str | None = None,
        class_word: str | None = None,
        property: Property = "object",
        live: bool = False,
    ) -> None:
        if path is None:
            raise InputError("concepts.path is not set: name the folder with the photos")
        if initializer is None:
            raise InputError("concepts.initializer is not set: give the class word, e.g. concepts.initializer=dog")
        self.path = Path(path)
        own = name if name is not None else _as_name(self.path.resolve().name)
        self.name = check_name(own, "concepts.name (by default the folder's)")
        self.initializer = initializer
        self.placeholder = placeholder or f"<{self.name}>"
        self.class_word = class_word or ""
        self.property = property
        self.live = live

    def names(self) -> list[str]:
        return [self.name]

    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        for name in names or ():
            if name != self.name:
                raise InputError(f"unknown concept '{name}' (the folder {self.path} is '{self.name}')")
        photos = list_photos(self.path)
        words = {"class_word": self.class_word, "property": self.property, "live": self.live}
        return [Concept(self.name, self.placeholder, self.initializer, photos, **words)]


def _as_name(folder: str) -> str:
    """My Photos (1) -> My-Photos-1. Letters of other scripts stay, and are refused: they have no obvious spelling."""
    return re.sub(r"[^\w-]+", "-", folder).strip("-_")
