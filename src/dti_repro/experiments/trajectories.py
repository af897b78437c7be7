"""Image score and text score by training step, of an experiment whose rows are snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pandas import DataFrame, concat, read_csv

from dti_repro.artifacts.files import read_yaml
from dti_repro.errors import InputError
from dti_repro.experiments.front_figure import read_experiment
from dti_repro.experiments.style import GREY, legend, line_style, panels, ticks
from dti_repro.experiments.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "trajectories"
ENDS = ("", "_low", "_high")
COLUMNS = ["label", "source", "step", *(f"{score}{end}" for score in ("image", "text") for end in ENDS)]


def has_snapshots(folder: Path) -> bool:
    """Return whether a folder of results is that of an experiment over snapshots."""
    return read_experiment(folder).get("snapshots") not in (None, [])


def write_trajectories(folder: Path) -> Figure:
    """Write trajectories.csv from the table, published steps beside it, and return its figure."""
    experiment = read_experiment(folder)
    metrics = {"image": experiment["image"], "text": experiment["text"][0]}
    scores = {f"{metric}{end}": f"{score}{end}" for score, metric in metrics.items() for end in ENDS}
    try:
        ours = read_csv(folder / "table.csv", dtype=str).rename(columns=scores)
        ours["step"] = ours["row"].map({row["name"]: row["snapshot"] for row in experiment["rows"]}).astype("Int64")
        ours["label"] = ours["label"].str.replace(r", step \d+$", "", regex=True)
        ours = ours.assign(source="ours")[COLUMNS].astype(dict.fromkeys(scores.values(), float))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{folder / 'table.csv'} is no table of snapshots ({error}): run the benchmark again"
        ) from error
    published = read_yaml(Path(__file__).with_name("published_steps.yaml"))
    theirs = [DataFrame(curve).assign(label=label, source="published") for label, curve in published.items()]
    table = concat([ours, *(curve.rename(columns={"steps": "step"}) for curve in theirs)])[COLUMNS]
    write_csv(folder / f"{NAME}.csv", table)
    return draw(table)


def draw(table: DataFrame) -> Figure:
    """Return the plane of both scores, each score by step, and the plane of what was published."""
    titles = ["image against text, last step marked", "image by step", "text by step", "published, other metrics"]
    figure, ((plane, image, text, published),) = panels(titles, title="Scores by training step", width=4.2)
    ours, theirs = table[table["source"] == "ours"], table[table["source"] == "published"]
    trained = ours[ours["step"].notna()]
    for k, (label, curve) in enumerate(trained.groupby("label", sort=False)):
        style = {**line_style(k), "label": label}
        plane.plot(curve["text"], curve["image"], **style, markevery=[-1])
        image.plot(curve["step"], curve["image"], **style)
        text.plot(curve["step"], curve["text"], **style)
    for bound in ours[ours["step"].isna() & ours["text"].notna()].itertuples():  # real references have no text score
        plane.plot(bound.text, bound.image, "*", color=GREY)
        plane.annotate(
            bound.label, (bound.text, bound.image), (-4, 4), textcoords="offset points", ha="right", fontsize=7
        )
    for label, curve in theirs.groupby("label", sort=False):
        published.plot(curve["text"], curve["image"], color=GREY, marker="o", markersize=4, label=label)
        for row in curve.iloc[[0, -1]].itertuples():
            published.annotate(str(row.step), (row.text, row.image), (3, 3), textcoords="offset points", fontsize=7)
    for axes in (plane, published):
        axes.set(xlabel="text", ylabel="image")
    for axes, score in ((image, "image"), (text, "text")):
        axes.set(xlabel="training step", ylabel=score)
        ticks(axes, trained["step"].unique())
    legend(figure)
    return figure
