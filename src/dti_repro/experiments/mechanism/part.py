"""A part of the study: one measurement, its CSV, its figure and its section of the page.

A figure and a section are made of what the CSV says, never of what was just computed, so that they can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import read_yaml
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    from dti_repro.experiments.mechanism.inputs import Inputs

Row = dict[str, Any]
Measured = tuple[list[Row], list[str]]
"""The rows of a CSV, and a line for everything that does not apply to a text encoder."""
VOCABULARY = "vocabulary"
"""The group of the vocabulary's own words; learned words are grouped by method."""
OWN = "own"
"""The norm that a word has; other norms are labels such as x10, ten times the mean of the vocabulary."""


@dataclass(frozen=True)
class Part:
    """columns: name -> type of the CSV's columns. keys: of the configuration, those that its numbers depend on.
    logs: it reads the runs' logs; depends: what else they depend on."""

    name: str
    title: str
    columns: Mapping[str, type]
    keys: tuple[str, ...]
    measure: Callable[[Inputs], Measured]
    draw: Callable[[DataFrame], Figure]
    section: Callable[[DataFrame], str]
    logs: bool = False
    depends: Callable[[Inputs], Any] = lambda inputs: None

    def read(self, path: Path) -> DataFrame:
        """Return the CSV. InputError that names the file if it is damaged."""
        from pandas import read_csv

        missing = {"keep_default_na": False, "na_values": [""]}  # "null" is a word
        try:
            return read_csv(path, usecols=list(self.columns), dtype=self.columns, **missing)
        except ValueError as error:
            raise InputError(f"{path} is damaged: remove it, and give the same command again") from error


@cache
def published() -> dict[str, Any]:
    """Return the published figures, with their source in the file's head."""
    return read_yaml(Path(__file__).with_name("published.yaml"))


def interval_text(values: Series) -> str:
    """Return the mean, with half of its 95% t interval where there are two numbers or more; "" for none."""
    from dti_repro.experiments.statistics import t_interval

    values = values.dropna()
    return t_interval(values).text if len(values) else ""
