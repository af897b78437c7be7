"""What each generated image is: its prompt, seed and settings. Nothing is read from a file name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from os.path import isfile  # False for a folder that cannot be read, where pathlib's raises
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.run_dir import check_name
from dti_repro.errors import InputError

NAME = "manifest.json"
DELETE = "delete its folder and generate again"
Text = Annotated[str, AfterValidator(lambda text: text.encode().decode())]  # half of a character fits into no file
ConceptName = Annotated[str, AfterValidator(lambda name: check_name(name, "concept"))]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ManifestImage:
    """One image of a generation. The types are checked, as a manifest may come from elsewhere."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}\.png$")]
    prompt: Text  # as given to the model, with placeholders
    template: Text  # with {} or {name}
    text: Text  # the template with the class word, which text scores read
    seed: StrictInt
    concepts: tuple[ConceptName, ...]
    expect: Mapping[Text, Text] | None = None  # what an attribute reader should see


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """All images of one folder `images/<id>/`, whether they are drawn already or not."""

    generation: Mapping[str, Any]  # what else the images depend on: weights, sampler, steps, size, ...
    embedding_sha256: Mapping[str, str]  # concept -> digest of the embedding file; empty for text alone
    images: tuple[ManifestImage, ...]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raise InputError that names the file if it is not a manifest, or if it names a file in another folder."""
        content = read_json(path, DELETE)
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise InputError(f"{path} is not a manifest ({key}: {first['msg']}): {DELETE}") from error

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def missing(self, folder: Path) -> list[ManifestImage]:
        """Return the images that are not in the folder, or were drawn with other settings, embeddings or prompts.

        An image counts only if the folder's manifest, which is written before its first image, agrees with this one.
        """
        drawn: dict[str, tuple[str, int]] = {}
        if isfile(folder / NAME):
            old = Manifest.read(folder / NAME)
            if (old.generation, old.embedding_sha256) == (self.generation, self.embedding_sha256):
                drawn = {image.file: (image.prompt, image.seed) for image in old.images}
        return [
            image
            for image in self.images
            if drawn.get(image.file) != (image.prompt, image.seed) or not isfile(folder / image.file)
        ]
