"""The toybox's held-out subjects, shipped as package data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_yaml
from dti_repro.data.concept import Concept, ConceptSet, check_chosen, choose
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
        self.subjects = read_yaml(index)
        for name, subject in self.subjects.items():
            _check_subject(name, subject, index)
        splits = sorted({subject["split"] for subject in self.subjects.values()})
        if split not in splits:
            raise InputError(f"unknown concepts.split '{split}' (choices: {', '.join(splits)})")
        self.split = split
        self.selected = choose(names, self.names())

    def names(self) -> list[str]:
        return sorted(name for name, subject in self.subjects.items() if subject["split"] == self.split)

    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        wanted = list(self.selected if names is None else names)
        check_chosen(wanted, list(self.subjects))
        return [self._concept(name) for name in wanted]

    def _concept(self, name: str) -> Concept:
        subject = self.subjects[name]
        return Concept(
            name=name,
            placeholder=f"<{name}>",
            initializer=subject["initializer"],
            images=tuple(self.root / name / image for image in subject["images"]),
            split=subject["split"],
            description=subject.get("description", ""),
        )


def _check_subject(name: Any, subject: Any, index: Path) -> None:
    """InputError that names the subject unless it has words and images."""
    entry = subject if isinstance(subject, dict) else {}
    texts = [name, entry.get("initializer"), entry.get("split"), entry.get("description", "")]
    images = entry.get("images")
    if isinstance(images, list) and all(isinstance(text, str) for text in (*texts, *images)):
        return
    raise InputError(f"{index}: subject '{name}' needs the texts initializer and split, and a list of images")
