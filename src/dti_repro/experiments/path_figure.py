"""How even the ways between learned words are, and how long images stay in class on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pandas import DataFrame, read_csv

from dti_repro.errors import InputError
from dti_repro.experiments.style import legend, line_style, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "paths"
SHOWN = {
    "spread": "spread of the steps / mean step",
    "largest": "largest step / length",
    "in_class": "share in class",
}


def read(folder: Path) -> DataFrame:
    """Return paths.csv, mean over training seeds. InputError for a damaged file."""
    file = folder / f"{NAME}.csv"
    try:
        return read_csv(file).groupby(["path", "pair", "a", "b"], sort=False)[list(SHOWN)].mean().reset_index()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is no table of paths ({error}): remove it, and run the benchmark again") from error


def draw(table: DataFrame) -> Figure:
    """Return a dot for each pair of subjects, and the mean over pairs, for each way."""
    measured = [column for column in SHOWN if table[column].notna().any()]
    figure, (panes,) = panels([SHOWN[column] for column in measured], title="Between two learned words", width=4.6)
    ways, pairs = list(table["path"].unique()), list(table["pair"].unique())
    for column, axes in zip(measured, panes, strict=True):
        for (way, pair), values in table.groupby(["path", "pair"], sort=False)[column]:
            k = pairs.index(pair)
            place = ways.index(way) + (k - (len(pairs) - 1) / 2) * 0.3
            jitter = [place + 0.1 * ((7 * i % 11) / 10 - 0.5) for i in range(len(values))]
            style = {**line_style(k), "linestyle": ""}
            axes.plot(jitter, values, **style | {"markersize": 2.5, "alpha": 0.5})
            axes.plot(place, values.mean(), **style | {"markersize": 9, "markeredgecolor": "black"}, label=pair)
        axes.set_xticks(range(len(ways)), [way.replace("_", " ") for way in ways])
    legend(figure)
    return figure
