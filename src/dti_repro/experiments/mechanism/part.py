"""A part of the study: one measurement, its CSV, its figure and its section of the page.

A figure and a section are made of what the CSV says, never of what was just computed, so that they can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dti_repro.artifacts.files import read_yaml
from dti_repro.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    from dti_repro.experiments.mechanism.inputs import Inputs

Row = dict[str, Any]
Measured = tuple[list[Row], list[str]]
"""The rows of a CSV, and a line for everything that does not apply to a text encoder."""
WORD = "<word>"
"""The placeholder in the prompts that are read and drawn."""
VOCABULARY = "vocabulary"
"""The group of the vocabulary's own words; learned words are grouped by method."""
OWN = "own"
"""The norm that a word has; other norms are labels such as x10, ten times the mean of the vocabulary."""


class Part(Protocol):
    """What a module of the study has. COLUMNS: name -> type, of the CSV. KEYS: of the configuration, those that its
    numbers depend on. It may have `depends(inputs)`: what else they depend on, for the digest."""

    NAME: str
    TITLE: str
    COLUMNS: Mapping[str, type]
    KEYS: tuple[str, ...]

    def measure(self, inputs: Inputs) -> Measured: ...

    def draw(self, table: DataFrame) -> Figure: ...

    def section(self, table: DataFrame) -> str: ...


def read_part(part: Part, path: Path) -> DataFrame:
    """Return the CSV of a part. InputError that names the file if it is damaged."""
    from pandas import read_csv

    missing = {"keep_default_na": False, "na_values": [""]}  # "null" is a word
    try:
        return read_csv(path, usecols=list(part.COLUMNS), dtype=part.COLUMNS, **missing)
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
