"""One subject or style to be taught, and sets of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dti_repro.artifacts.run_dir import check_name
from dti_repro.config.values import Property
from dti_repro.errors import InputError


@dataclass(frozen=True)
class Concept:
    """What a method is given: the name, the word to be taught, the class word it starts from, and the
    photos."""

    name: str  # also its folder's name
    placeholder: str  # "<name>"
    initializer: str  # the class word or words
    images: tuple[Path, ...]
    property: Property = "object"
    split: str = "table"  # toybox: table | validation
    description: str = ""  # the subject in the model's own words, for the bounds row ("" = none)
    class_word: str = ""  # stands for it in text scores and in the class bound; "" = the initializer
    live: bool = False  # a person or an animal, for which a prompt set may have prompts of its own

    def __post_init__(self) -> None:
        check_name(self.name, "concept")
        if not self.initializer.strip():
            raise InputError(f"concept '{self.name}' has no initializer: give its class word")
        if not self.placeholder or any(c.isspace() or c in "{}" for c in self.placeholder):
            raise InputError(f"concept '{self.name}': placeholder '{self.placeholder}' must be one word such as <dog>")
        object.__setattr__(self, "class_word", self.class_word or self.initializer)


def choose(names: Sequence[str] | str | None, known: Sequence[str]) -> list[str]:
    """What concepts.names asks for: a list of names, one name, `all`, or None for the first."""
    if names is None:
        return list(known[:1])
    given = [names] if isinstance(names, str) else [str(name) for name in names]
    return list(known) if given == ["all"] else given


def check_chosen(names: Sequence[str], known: Sequence[str]) -> None:
    """InputError unless these are concepts of the set, at least one, and none twice."""
    if not names:
        raise InputError("concepts.names is empty: name a concept, or all")
    if len(set(names)) < len(names):
        raise InputError(f"concepts.names has a concept twice: {', '.join(names)}")
    for name in names:
        if name not in known:
            raise InputError(f"unknown concept '{name}' (choices: {', '.join(sorted(known))}, or all)")


class ConceptSet(ABC):
    """Where concepts come from; one yaml in conf/concepts per class."""

    @abstractmethod
    def names(self) -> list[str]:
        """All that the name `all` stands for."""

    @abstractmethod
    def load(self, names: Sequence[str] | None = None) -> list[Concept]:
        """The concepts of these names, or those that the configuration selects. InputError for an unknown
        one."""
