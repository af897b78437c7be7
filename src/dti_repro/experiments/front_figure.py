"""Image score against text score of an experiment's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame, read_csv

from dti_repro.artifacts.files import read_json
from dti_repro.errors import InputError
from dti_repro.experiments.style import GREY, legend, line_style, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "front"
WIDTH = 7.2  # inches


def read_experiment(folder: Path) -> dict[str, Any]:
    """Return the experiment that a folder of results was made of, {} where there is none."""
    file = folder / "provenance.json"
    return read_json(file, "run the benchmark again").get("experiment", {}) if file.is_file() else {}


def draw_stored(folder: Path) -> Figure:
    """Return the figure of a folder's table.csv. InputError for one that does not belong to the folder's experiment."""
    file = folder / "table.csv"
    try:
        texts = {"row": str, "label": str}
        table = read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])
        return draw(table, read_experiment(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is no table of its experiment ({error}): run the benchmark again") from error


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points on the Pareto front, in the order of the first axis: no other point is at least as
    good on both axes."""
    best = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


def draw(table: DataFrame, experiment: Mapping[str, Any]) -> Figure:
    """Return means with their 95% t intervals, and a line through the rows that no other row beats.

    table: as table.csv. Rows without one of the two scores (real references have no text score) are left out, and so
    are snapshots before the last step. The settings that a search tries for one method have one mark. Bounds are hollow
    and no part of the line.
    """
    image, text, metrics = experiment["image"], experiment["text"][0], experiment["metrics"]
    specs = {row["name"]: row for row in experiment["rows"]}
    last = max(experiment["snapshots"], default=None)
    figure, ((axes,),) = panels([""], width=WIDTH)
    styles: dict[str, dict[str, object]] = {}
    means: dict[str, tuple[float, float]] = {}
    for row in table[table[image].notna() & table[text].notna()].to_dict("records"):
        spec = specs[row["row"]]
        if spec["snapshot"] not in (None, last):
            continue
        name = spec["method"] or row["label"]
        known = name in styles
        style = styles.setdefault(name, {**line_style(len(styles)), "linestyle": ""})
        if spec["bound"]:
            style = style | {"markerfacecolor": "white"}
        else:
            means[row["row"]] = (row[text], row[image])
        bars = {
            bar: [[row[metric] - row[f"{metric}_low"]], [row[f"{metric}_high"] - row[metric]]]
            for bar, metric in (("xerr", text), ("yerr", image))
        }
        axes.errorbar(row[text], row[image], fmt="none", ecolor=style["color"], elinewidth=0.6, alpha=0.5, **bars)
        axes.plot(row[text], row[image], **style | {"markersize": 6}, label="_" if known else name)
    joined = [means[name] for name in front(means)]
    axes.plot([x for x, _ in joined], [y for _, y in joined], color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlabel=f"text ({metrics[text]})", ylabel=f"image ({metrics[image]})")
    legend(figure)
    return figure
