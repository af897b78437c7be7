"""Image score and text score by training step, of an experiment whose rows are snapshots."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from dti_repro.artifacts.files import read_json, read_yaml
from dti_repro.errors import InputError
from dti_repro.experiments.mechanism.part import unique, where
from dti_repro.experiments.mechanism.style import GREY, legend, line_style, panels, ticks
from dti_repro.experiments.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "trajectories"
SCORES = ("image", "text")
COLUMNS = ("label", "source", "step", *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")))
Row = dict[str, Any]


def has_snapshots(folder: Path) -> bool:
    """Return whether a folder of results is that of an experiment over snapshots."""
    return _experiment(folder).get("snapshots") not in (None, [])


def write_trajectories(folder: Path) -> Figure:
    """Write trajectories.csv from the table, published steps beside it, and return its figure."""
    experiment = _experiment(folder)
    metrics = {"image": experiment["image"], "text": experiment["text"][0]}
    rows: list[Row] = []
    specs = {row["name"]: row for row in experiment["rows"]}
    try:
        with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                step = specs[line["row"]]["snapshot"]
                label = line["label"] if step is None else line["label"].removesuffix(f", step {step}")
                scores = {
                    f"{score}{end}": float(line[f"{metric}{end}"] or "nan")
                    for score, metric in metrics.items()
                    for end in ("", "_low", "_high")
                }
                rows.append({"label": label, "source": "ours", "step": step, **scores})
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise InputError(
            f"{folder / 'table.csv'} is no table of snapshots ({error}): run the benchmark again"
        ) from error
    for label, curve in read_yaml(Path(__file__).with_name("published_steps.yaml")).items():
        for step, image, text in zip(curve["steps"], curve["image"], curve["text"], strict=True):
            rows.append({"label": label, "source": "published", "step": step, "image": image, "text": text})
    write_csv(folder / f"{NAME}.csv", DataFrame(rows, columns=COLUMNS).astype({"step": "Int64"}))
    return draw(rows)


def draw(rows: Sequence[Row]) -> Figure:
    """Return the plane of both scores, each score by step, and the plane of what was published."""
    titles = ["image against text", "image by step", "text by step", "published, other metrics"]
    figure, ((plane, image, text, published),) = panels(titles, title="Scores by training step", width=4.2)
    ours, theirs = where(rows, source="ours"), where(rows, source="published")
    for k, label in enumerate(unique([row for row in ours if row["step"] is not None], "label")):
        curve, style = where(ours, label=label), {**line_style(k), "label": label}
        _line(plane, curve, style)
        for axes, score in ((image, "image"), (text, "text")):
            axes.plot([row["step"] for row in curve], [row[score] for row in curve], **style)
    for row in ours:
        if row["step"] is None and row["text"] == row["text"]:  # a bound; real references have no text score
            plane.plot(row["text"], row["image"], "*", color=GREY)
            plane.annotate(row["label"], (row["text"], row["image"]), fontsize=7)
    for label in unique(theirs, "label"):
        _line(published, where(theirs, label=label), {"color": GREY, "marker": "o", "markersize": 4, "label": label})
    for axes in (plane, published):
        axes.set(xlabel="text", ylabel="image")
    for axes, score in ((image, "image"), (text, "text")):
        axes.set(xlabel="training step", ylabel=score)
        ticks(axes, unique([row for row in ours if row["step"] is not None], "step"))
    legend(figure)
    return figure


def _line(axes: Axes, curve: Sequence[Row], style: dict[str, object]) -> None:
    """Join the steps, and name the first and the last."""
    axes.plot([row["text"] for row in curve], [row["image"] for row in curve], **style)
    for row in (curve[0], curve[-1]):
        place = {"xytext": (3, 3), "textcoords": "offset points", "fontsize": 7}
        axes.annotate(str(row["step"]), (row["text"], row["image"]), **place)


def _experiment(folder: Path) -> dict[str, Any]:
    file = folder / "provenance.json"
    return read_json(file, "run the benchmark again").get("experiment", {}) if file.is_file() else {}
