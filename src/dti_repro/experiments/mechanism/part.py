"""A part of the study: one measurement, its CSV, its figure and its section of the page.

A figure and a section are made of what the CSV says, never of what was just computed, so that they can be made again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import atomic_write, read_yaml
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dti_repro.experiments.mechanism.inputs import Inputs

Row = dict[str, Any]
VOCABULARY = "vocabulary"
"""The group of the vocabulary's own words; learned words are grouped by method."""
OWN = "own"
"""The norm that a word has; other norms are labels such as x10, ten times the mean of the vocabulary."""


@dataclass(frozen=True)
class Measured:
    """The rows of a CSV, and a line for everything that does not apply to a text encoder."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """columns: name -> type of the CSV's columns. keys: of the configuration, those that its numbers depend on.
    logs: it reads the runs' logs; words: it reads the learned vectors; depends: what else they depend on."""

    name: str
    title: str
    columns: Mapping[str, type]
    keys: tuple[str, ...]
    measure: Callable[[Inputs], Measured]
    draw: Callable[[Sequence[Row]], Figure]
    section: Callable[[Sequence[Row]], str]
    words: bool = True
    logs: bool = False
    depends: Callable[[Inputs], Any] = lambda inputs: None

    def write(self, path: Path, rows: Sequence[Row]) -> None:
        """Write the CSV, with six digits a number; a missing number is empty."""
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            for row in rows:
                writer.writerow([_text(row.get(name)) for name in self.columns])

    def read(self, path: Path) -> list[Row]:
        """Return the rows of the CSV. InputError that names the file if it is damaged."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [
                    {name: kind(row[name]) if row[name] != "" else None for name, kind in self.columns.items()}
                    for row in csv.DictReader(file)
                ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(f"{path} is damaged: remove it, and give the same command again") from error


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


@cache
def published() -> dict[str, Any]:
    """Return the published figures, with their source in the file's head."""
    return read_yaml(Path(__file__).with_name("published.yaml"))


def published_label(name: str) -> str:
    """Return what a text encoder of the published figures is called on the page."""
    return published()["encoders"][name]["label"]


def unique(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the values of a column in the order of their first row."""
    return list(dict.fromkeys(row[column] for row in rows))


def where(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[column] == value for column, value in wanted.items())]


def mean_of(rows: Sequence[Row], column: str) -> float:
    """Return the mean of a column over the rows that have a number there; NaN where none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return sum(values) / len(values) if values else float("nan")


def interval_text(rows: Sequence[Row], column: str, digits: int = 3) -> str:
    """Return the mean over rows, with half of its 95% t interval where there are two rows or more; "" for none."""
    from dti_repro.experiments.statistics import t_interval

    values = [row[column] for row in rows if row[column] is not None]
    if not values:
        return ""
    interval = t_interval(values)
    half = f" ± {interval.half_width:.{digits}f}" if len(values) > 1 else ""
    return f"{interval.mean:.{digits}f}{half}"
