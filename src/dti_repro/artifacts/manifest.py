"""What each generated image is: its prompt, seed and settings. Nothing is parsed back out of a file name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os.path import isfile  # False, where pathlib's raises, for a folder that cannot be read
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.run_dir import check_name, config_hash
from dti_repro.errors import InputError

NAME = "manifest.json"


@dataclass(frozen=True)
class ManifestImage:
    """One picture of a generation."""

    file: str
    prompt: str  # as given to the model, with placeholders
    template: str  # with {} or {name}
    text: str  # the template with the class word, which text scores read
    seed: int
    concepts: tuple[str, ...]
    expect: Mapping[str, str] | None = None  # what an attribute reader should see


@dataclass(frozen=True)
class Manifest:
    """All pictures of one folder `images/<id>/`, whether they are drawn already or not."""

    generation: Mapping[str, Any]  # whatever else the pictures depend on: weights, sampler, steps, size, ...
    embedding_sha256: Mapping[str, str]  # concept -> digest of the embedding file; empty for text alone
    images: tuple[ManifestImage, ...] = field(default=())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """InputError, naming the file, if it is not a manifest, or names a file that lies elsewhere."""
        content = read_json(path, "delete its folder and generate again")
        try:
            if not isinstance(content.get("images"), list):
                raise TypeError("a list of images is needed")
            images = tuple(_image(entry) for entry in content.pop("images"))
            manifest = cls(**content, images=images)
            if not (isinstance(manifest.generation, dict) and isinstance(manifest.embedding_sha256, dict)):
                raise TypeError("two mappings are needed")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is not a manifest ({error}): delete its folder and generate again") from error
        return manifest

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def missing(self, folder: Path) -> list[ManifestImage]:
        """The pictures that are not in the folder, or belong to other settings, embeddings or prompts.

        A file counts only if the manifest beside it, which is written before the first picture, tells the
        same story.
        """
        drawn = self._trusted(folder)
        return [image for image in self.images if image.file not in drawn]

    def _trusted(self, folder: Path) -> set[str]:
        if not isfile(folder / NAME):
            return set()
        old = Manifest.read(folder / NAME)
        if (old.generation, old.embedding_sha256) != (self.generation, self.embedding_sha256):
            return set()
        prompts = {image.file: (image.prompt, image.seed) for image in old.images}
        same = (i for i in self.images if prompts.get(i.file) == (i.prompt, i.seed))
        return {image.file for image in same if isfile(folder / image.file)}


def _image(entry: Mapping[str, Any]) -> ManifestImage:
    """ValueError or TypeError for anything that `write` does not write."""
    if not isinstance(entry["concepts"], list):
        raise TypeError("an image's concepts are a list")
    image = ManifestImage(**{**entry, "concepts": tuple(check_name(name, "concept") for name in entry["concepts"])})
    words = [image.file, image.prompt, image.template, image.text]
    pairs = [] if image.expect is None else [*image.expect.keys(), *image.expect.values()]
    if not all(isinstance(word, str) for word in (*words, *pairs)) or type(image.seed) is not int:
        raise TypeError("an image's texts are strings and its seed is a whole number")
    "".join((*words, *pairs)).encode()  # half of a character can be written into no file
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}\.png", image.file):
        raise ValueError(f"{image.file[:40]!r} is no picture of this folder")
    return image


def generation_id(generation: Mapping[str, Any], templates: tuple[str, ...]) -> str:
    """Ten hex digits: the name of the folder below `images/`."""
    return config_hash({"generation": generation, "templates": templates})
