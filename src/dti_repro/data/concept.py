"""Concepts, and the sets that they come from: a folder of photos, a collection of folders, the toybox's subjects."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dti_repro.artifacts.files import read_yaml, user_path
from dti_repro.artifacts.run_dir import check_name
from dti_repro.config.values import Property
from dti_repro.data.photos import list_photos
from dti_repro.errors import InputError

PUBLISHED = Path(__file__).parent / "sets"
UNFINISHED = ".unfinished"
"""The file in a folder of photos that `dti download` has begun to fill, until all of them are there."""
SUBJECTS = Path(__file__).parent.parent / "toybox" / "subjects"


@dataclass(frozen=True)
class Concept:
    """One subject or style to be learned: its name, its words and its photos."""

    name: str  # also the name of its folder
    placeholder: str  # "<name>"
    initializer: str  # the word or words that the learned word starts from
    images: tuple[Path, ...]
    property: Property = "object"
    description: str = ""  # the subject in words that the model knows, for text=description ("": none)
    class_word: str = ""  # replaces the placeholder in text scores and for text=class ("": the initializer)
    live: bool = False  # a person or an animal, for which a prompt set may have other prompts
    captions: tuple[str, ...] = ()  # a template for each photo, which replace the training's templates
    masks: tuple[Path | None, ...] = ()  # of each photo, where the training's loss counts its subject alone

    def __post_init__(self) -> None:
        check_name(self.name, "concept")
        if not self.initializer.strip():
            raise InputError(f"concept '{self.name}' has no initializer: give its class word")
        if not self.placeholder or any(c.isspace() or c in "{}" for c in self.placeholder):
            raise InputError(f"concept '{self.name}': placeholder '{self.placeholder}' must be one word such as <dog>")
        object.__setattr__(self, "class_word", self.class_word or self.initializer)

    def fill(self, template: str, class_word: bool = False) -> str:
        """Return a training prompt: the template with the placeholder, or the class word alone, in {} and the class
        word in {class}."""
        if class_word:
            template = template.replace("{} {class}", "{}")
        word = self.class_word if class_word else self.placeholder
        return template.replace("{}", word).replace("{class}", self.class_word)


class ConceptSet(ABC):
    """Where concepts come from. Each class has a yaml in conf/concepts."""

    def __init__(self, names: Sequence[str] | str | None) -> None:
        """names: the selected concepts: a list of names, one name, `all`, or None for the first one by name."""
        self._selected = names

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the concepts that `all` selects."""

    @abstractmethod
    def concept(self, name: str) -> Concept:
        """Return the concept of this name. KeyError if there is none, InputError if it has no photos."""

    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        """Return the concepts of these names; None: the selected ones. InputError if there is no name, a name twice or
        an unknown name."""
        known = self.names()
        selected = self._selected if names is None else names
        if selected is None:
            selected = known[:1]
        elif selected in ("all", ["all"]):
            selected = known
        elif isinstance(selected, str):
            selected = [selected]
        if not selected:
            raise InputError("concepts.names is empty: give the name of a concept, or all")
        if len(set(selected)) < len(selected):
            raise InputError(f"concepts.names has a concept twice: {', '.join(selected)}")
        try:
            return [self.concept(name) for name in selected]
        except KeyError as error:
            choices = f"choices: {', '.join(known)}, or all"
            raise InputError(f"unknown concept '{error.args[0]}' ({choices})") from error


class Folder(ConceptSet):
    """The photos of one folder: `concepts=folder concepts.path=photos/rex concepts.initializer=dog`.

    path: the folder. name: None for the folder's name, with `-` for spaces and punctuation. placeholder: None for
    `<name>`. class_word, property, live: as in `Concept`.
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
        super().__init__(None)
        if path is None:
            raise InputError("concepts.path is not set: name the folder with the photos")
        if initializer is None:
            raise InputError("concepts.initializer is not set: give the class word, e.g. concepts.initializer=dog")
        self.path = user_path(path)
        # Letters of other scripts stay in the name and are refused: they have no obvious spelling in ASCII.
        folder_name = re.sub(r"[^\w-]+", "-", self.path.resolve().name).strip("-_")
        self.name = check_name(folder_name if name is None else name, "concepts.name (by default the folder's)")
        self.placeholder = placeholder or f"<{self.name}>"
        self.words = {"initializer": initializer, "class_word": class_word or "", "property": property, "live": live}

    def names(self) -> list[str]:
        return [self.name]

    def concept(self, name: str) -> Concept:
        if name != self.name:
            raise KeyError(name)
        return Concept(name, self.placeholder, images=list_photos(self.path), **self.words)


class CollectionEntry(BaseModel):
    """An entry of the index. Its other keys are words to start from."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]
    class_word: str = Field(alias="class")
    live: bool = False
    description: str = ""


class Collection(ConceptSet):
    """The published sets (dreambooth, styledrop, textual_inversion), or a set with an index of the same kind.

    index: the name of a yaml in `data/sets`, or the path of one: `<name>: {class: dog, live: true, initializer: corgi,
    description: ...}`, of which only class is needed. root: the photos are in `<root>/<name>/`. names: a list of names,
    `all`, or None for the first one by name. property: object | style, of all concepts. initializer_key: the key of
    the words that the learned word starts from; a concept without this key starts from its class.
    """

    def __init__(
        self,
        index: str | None,
        root: str | None,
        names: Sequence[str] | str | None = None,
        property: Property = "object",
        initializer_key: str = "initializer",
    ) -> None:
        super().__init__(names)
        if index is None or root is None:
            raise InputError("concepts.index and concepts.root are needed: the list of concepts and the photos' folder")
        self.index = user_path(index) if index.endswith((".yaml", ".yml")) else PUBLISHED / f"{index}.yaml"
        if not self.index.is_file():
            known = ", ".join(sorted(file.stem for file in PUBLISHED.glob("*.yaml")))
            raise InputError(f"concepts.index {index} does not exist (a yaml file, or one of {known})")
        self.entries = _read_index(self.index, CollectionEntry, "rex: {class: dog, live: true}")
        self.root, self.property, self.initializer_key = user_path(root), property, initializer_key
        known = {"initializer"}.union(*(entry.model_extra for entry in self.entries.values()))
        if initializer_key not in known:
            choices = ", ".join(sorted(known))
            raise InputError(f"concepts.initializer_key '{initializer_key}' is none of {self.index} ({choices})")

    def names(self) -> list[str]:
        return sorted(self.entries)

    def concept(self, name: str) -> Concept:
        words, photos = self.entries[name], self.root / name
        if not photos.is_dir():
            hint = "correct concepts.root"
            if self.index.parent == PUBLISHED:
                hint = f"python -m dti_repro.download {self.index.stem}, or concepts.root=<folder of a copy>"
            raise InputError(f"concept '{name}' has no photos, {photos} does not exist: {hint}")
        if (photos / UNFINISHED).exists():
            raise InputError(f"{photos} lacks photos: python -m dti_repro.download {self.index.stem} fetches them")
        return Concept(
            name=name,
            placeholder=f"<{name}>",
            initializer=words.model_extra.get(self.initializer_key, words.class_word),
            images=list_photos(photos),
            property=self.property,
            description=words.description,
            class_word=words.class_word,
            live=words.live,
        )


class ToyboxEntry(BaseModel):
    """An entry of subjects.yaml."""

    initializer: str
    split: str
    images: list[str]
    description: str = ""


class Toybox(ConceptSet):
    """Subjects that the pretraining never showed.

    names: a list of names, `all` (those of `split`), or None for the first one by name. split: table | validation;
    subjects that are named may be of either. root: a folder with subjects.yaml and `<name>/<image>` (None: the one in
    the package).
    """

    def __init__(self, names: Sequence[str] | str | None = None, split: str = "table", root: str | None = None) -> None:
        super().__init__(names)
        self.root = SUBJECTS if root is None else user_path(root)
        example = "bird: {initializer: bird, split: table, images: [0.png]}"
        self.subjects = _read_index(self.root / "subjects.yaml", ToyboxEntry, example)
        splits = sorted({subject.split for subject in self.subjects.values()})
        if split not in splits:
            raise InputError(f"unknown concepts.split '{split}' (choices: {', '.join(splits)})")
        self.split = split

    def names(self) -> list[str]:
        return sorted(name for name, subject in self.subjects.items() if subject.split == self.split)

    def concept(self, name: str) -> Concept:
        subject = self.subjects[name]
        images = tuple(self.root / name / image for image in subject.images)
        return Concept(name, f"<{name}>", subject.initializer, images, description=subject.description)


Entry = TypeVar("Entry", bound=BaseModel)


def _read_index(file: Path, entry: type[Entry], example: str) -> dict[str, Entry]:
    """Return the entries `<name>: {<key>: <value>}` of a yaml file. InputError that names the file and the entry, and
    shows the example."""
    if not file.is_file():
        raise InputError(f"{file} does not exist: an index of concepts is needed")
    try:
        entries = TypeAdapter(dict[str, entry]).validate_python(read_yaml(file), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{file}: {key}: {first['msg']} (write an entry as `{example}`)") from error
    if not entries:
        raise InputError(f"{file} has no concepts: write an entry as `{example}`")
    for name in entries:
        check_name(name, f"{file}: concept")
    return entries
