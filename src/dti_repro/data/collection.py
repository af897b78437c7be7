"""Many concepts in one place: a folder of folders of photos, and an index that says which words are theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_yaml
from dti_repro.artifacts.run_dir import check_name
from dti_repro.config.values import Property
from dti_repro.data.concept import Concept, ConceptSet, check_chosen, choose
from dti_repro.data.photos import list_photos
from dti_repro.errors import InputError

PUBLISHED = Path(__file__).parent / "sets"


class Collection(ConceptSet):
    """The published sets (dreambooth, styledrop, textual_inversion), or one of your own with an index of the same kind.

    index: a name in `concepts/sets`, or a yaml of one's own: `<name>: {class: dog, live: true, initializer: corgi,
    description: ...}`, of which only class is needed. root: the photos lie in `<root>/<name>/`. names: a list of names,
    `all`, or None for the first one by name. property: object | style, of all of them. initializer_key: the entry
    that the learned word starts from; concepts without it start from their class.
    """

    def __init__(
        self,
        index: str | None,
        root: str | None,
        names: Sequence[str] | str | None = None,
        property: Property = "object",
        initializer_key: str = "initializer",
    ) -> None:
        if index is None or root is None:
            raise InputError("concepts.index and concepts.root are needed: the list of concepts and the photos' folder")
        self.index, self.entries = _read_index(index)
        self.root = Path(root)
        self.property = property
        keys = {key for entry in self.entries.values() for key in entry} - {"class", "live", "description"}
        if initializer_key not in (known := sorted(keys | {"initializer"})):
            raise InputError(
                f"concepts.initializer_key '{initializer_key}' is none of {self.index} (there are: {', '.join(known)})"
            )
        self.initializer_key = initializer_key
        self.selected = choose(names, self.names())

    def names(self) -> list[str]:
        return sorted(self.entries)

    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        wanted = list(self.selected if names is None else names)
        check_chosen(wanted, self.names())
        return [self._concept(name) for name in wanted]

    def _concept(self, name: str) -> Concept:
        entry, photos = self.entries[name], self.root / name
        if not photos.is_dir():
            how = "correct concepts.root"
            if self.index.parent == PUBLISHED:
                how = f"python -m dti_repro.download {self.index.stem}, or concepts.root=<folder of a copy>"
            raise InputError(f"concept '{name}' has no photos, {photos} does not exist: {how}")
        return Concept(
            name=name,
            placeholder=f"<{name}>",
            initializer=entry.get(self.initializer_key, entry["class"]),
            images=list_photos(photos),
            property=self.property,
            description=entry.get("description", ""),
            class_word=entry["class"],
            live=entry.get("live", False),
        )


def _read_index(index: str) -> tuple[Path, Mapping[str, Mapping[str, Any]]]:
    """The file and its entries. InputError that names the file and the entry."""
    own = Path(index).suffix in (".yaml", ".yml")
    path = Path(index) if own else PUBLISHED / f"{index}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PUBLISHED.glob("*.yaml")))
        raise InputError(f"concepts.index {index} does not exist (a yaml file, or one of {known})")
    entries = read_yaml(path)
    if not entries:
        raise InputError(f"concepts.index {path} has no concepts: lines such as `rex: {{class: dog}}` are needed")
    for name, entry in entries.items():
        _check_entry(name, entry, path)
    return path, entries


def _check_entry(name: Any, entry: Any, path: Path) -> None:
    if not isinstance(name, str) or not isinstance(entry, dict) or "class" not in entry:
        raise InputError(f"concepts.index {path}: '{name}' needs a line such as `{name}: {{class: dog}}`")
    check_name(name, f"concepts.index {path}: concept")
    for key, value in entry.items():
        if not isinstance(value, bool if key == "live" else str):
            kind = "true or false" if key == "live" else "words"
            raise InputError(f"concepts.index {path}: {name}.{key} is {repr(value)[:40]}, {kind} are needed")
