"""What each generated image is: its prompt, seed and settings. Nothing is parsed back out of a file name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dti_repro.errors import InputError
from dti_repro.results.files import write_json
from dti_repro.results.run import config_hash

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
        """InputError, naming the file, if it is not a manifest."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            images = tuple(
                ManifestImage(**{**i, "concepts": tuple(i["concepts"])}) for i in content.pop("images")
            )
            return cls(**content, images=images)
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist: generate first") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is not a manifest; delete its folder and generate again") from error

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
        if not (folder / NAME).is_file():
            return set()
        old = Manifest.read(folder / NAME)
        if (old.generation, old.embedding_sha256) != (self.generation, self.embedding_sha256):
            return set()
        prompts = {image.file: (image.prompt, image.seed) for image in old.images}
        same = (i for i in self.images if prompts.get(i.file) == (i.prompt, i.seed))
        return {image.file for image in same if (folder / image.file).is_file()}


def generation_id(generation: Mapping[str, Any], templates: tuple[str, ...]) -> str:
    """Ten hex digits: the name of the folder below `images/`."""
    return config_hash({"generation": generation, "templates": templates})
