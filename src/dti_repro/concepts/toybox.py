"""The toybox's held-out subjects, shipped as package data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from dti_repro.concepts.concept import Concept, ConceptSet
from dti_repro.errors import InputError

SUBJECTS = Path(__file__).parent.parent / "toybox" / "subjects"


class Toybox(ConceptSet):
    """Subjects that pretraining never saw.

    names: a list of names, `all` (those of `split`), or None for the first one by name. split: table |
    validation; names given one by one may be of either. root: a folder with subjects.yaml and
    `<name>/<image>` (None: the packaged one).
    """

    def __init__(self, names: Sequence[str] | str | None = None, split: str = "table", root: str | None = None) -> None:
        self.root = Path(root) if root is not None else SUBJECTS
        index = self.root / "subjects.yaml"
        if not index.is_file():
            raise InputError(f"the toybox's list of subjects {index} does not exist")
        self.subjects = yaml.safe_load(index.read_text())
        splits = sorted({subject["split"] for subject in self.subjects.values()})
        if split not in splits:
            raise InputError(f"unknown concepts.split '{split}' (choices: {', '.join(splits)})")
        self.split = split
        if names is None:
            self.selected = self.names()[:1]
        else:
            given = [names] if isinstance(names, str) else [str(name) for name in names]
            self.selected = self.names() if given == ["all"] else given

    def names(self) -> list[str]:
        return sorted(name for name, subject in self.subjects.items() if subject["split"] == self.split)

    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        wanted = list(self.selected if names is None else names)
        if not wanted:
            raise InputError("concepts.names is empty: name a concept, or all")
        if len(set(wanted)) < len(wanted):
            raise InputError(f"concepts.names has a concept twice: {', '.join(wanted)}")
        return [self._concept(name) for name in wanted]

    def _concept(self, name: str) -> Concept:
        if name not in self.subjects:
            raise InputError(f"unknown concept '{name}' (choices: {', '.join(sorted(self.subjects))}, or all)")
        subject = self.subjects[name]
        return Concept(
            name=name,
            placeholder=f"<{name}>",
            initializer=subject["initializer"],
            images=tuple(self.root / name / image for image in subject["images"]),
            split=subject["split"],
            description=subject.get("description", ""),
        )
