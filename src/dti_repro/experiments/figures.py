"""Figures of an experiment: its images, norms over training steps, and what is drawn of the CSVs of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame, concat, read_csv

from dti_repro.artifacts.files import read_json, read_yaml
from dti_repro.artifacts.image_grid import Grid
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.mechanism.part import read_part
from dti_repro.experiments.mechanism.study import PARTS, RECORD
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.style import GREY, legend, line_style, panels, save, ticks
from dti_repro.experiments.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches
ENDS = ("", "_low", "_high")
TRAJECTORY_COLUMNS = ["label", "source", "step", *(f"{score}{end}" for score in ("image", "text") for end in ENDS)]
PATH_TITLES = {
    "spread": "spread of the steps / mean step",
    "largest": "largest step / length",
    "in_class": "share in class",
}


def comparison(run: ExperimentRun, results: Sequence[RowResult]) -> Grid:
    """Return the images of the first subject, or of the first set of subjects that a prompt names, with the first image
    seed: a row for each row that has images, a column for each prompt. Of rows that are snapshots there are those of
    the last step. Nothing is selected by its looks."""
    seed, last = run.seeds()[0], max(run.experiment.snapshots, default=None)
    drawn = [
        (result.spec.label, image, folder.path / image.file)
        for result in results
        for folder in result.image_folders
        for image in folder.manifest.images
        if image.seed == seed and result.spec.snapshot in (None, last)
    ]
    names = drawn[0][1].concepts
    rows: dict[str, dict[str, Path]] = {}  # label -> prompt -> image of the first training seed
    for label, image, path in drawn:
        if image.concepts == names:
            rows.setdefault(label, {}).setdefault(image.template, path)
    concept = run.concepts[names[0]]
    title = f"{concept.placeholder} and its reference photos; initializer '{concept.initializer}'"
    columns = [prompt.replace("{}", concept.placeholder) for prompt in next(iter(rows.values()))]
    references = [load_photo(photo) for name in names for photo in run.concepts[name].images]
    images = {label: [load_photo(path) for path in by_prompt.values()] for label, by_prompt in rows.items()}
    return Grid(columns, images, references, title)


def save_norms(path: Path, norms: Mapping[str, Sequence[float]], title: str) -> None:
    """Plot the norm by step of each name, and write <path>.png and .pdf."""
    figure, ((axes,),) = panels([title], width=WIDTH)
    for name, values in norms.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.8)
    axes.set(xlabel="training step", ylabel="norm of the token vector", yscale="log")
    axes.legend()
    save(figure, path)


def draw_front(folder: Path, experiment: Mapping[str, Any]) -> Figure:
    """Return the figure of a folder's table.csv. InputError for one that does not belong to the folder's experiment."""
    file = folder / "table.csv"
    try:
        texts = {"row": str, "label": str}
        table = read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])
        return _draw_front(table, experiment)
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


def _draw_front(table: DataFrame, experiment: Mapping[str, Any]) -> Figure:
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


def write_trajectories(folder: Path, experiment: Mapping[str, Any]) -> Figure:
    """Write trajectories.csv from the table, published steps beside it, and return its figure."""
    metrics = {"image": experiment["image"], "text": experiment["text"][0]}
    scores = {f"{metric}{end}": f"{score}{end}" for score, metric in metrics.items() for end in ENDS}
    try:
        ours = read_csv(folder / "table.csv", dtype=str).rename(columns=scores)
        ours["step"] = ours["row"].map({row["name"]: row["snapshot"] for row in experiment["rows"]}).astype("Int64")
        ours["label"] = ours["label"].str.replace(r", step \d+$", "", regex=True)
        ours = ours.assign(source="ours")[TRAJECTORY_COLUMNS].astype(dict.fromkeys(scores.values(), float))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{folder / 'table.csv'} is no table of snapshots ({error}): run the benchmark again"
        ) from error
    published = read_yaml(Path(__file__).with_name("published_steps.yaml"))
    theirs = [DataFrame(curve).assign(label=label, source="published") for label, curve in published.items()]
    table = concat([ours, *(curve.rename(columns={"steps": "step"}) for curve in theirs)])[TRAJECTORY_COLUMNS]
    write_csv(folder / "trajectories.csv", table)
    return _draw_trajectories(table)


def _draw_trajectories(table: DataFrame) -> Figure:
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


def draw_paths(file: Path) -> Figure:
    """Return, of a paths.csv, a dot for each pair of subjects (mean over training seeds), and the mean over pairs, for
    each way. InputError for a damaged file."""
    try:
        by_pair = read_csv(file).groupby(["path", "pair", "a", "b"], sort=False)
        table = by_pair[list(PATH_TITLES)].mean().reset_index()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is no table of paths ({error}): remove it, and run the benchmark again") from error
    measured = [column for column in PATH_TITLES if table[column].notna().any()]
    figure, (panes,) = panels(
        [PATH_TITLES[column] for column in measured], title="Between two learned words", width=4.6
    )
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


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of a folder of results, as PNG and PDF, and return their paths without the suffix."""
    drawn = []
    for name, figure in _figures(folder):
        save(figure, folder / name)
        drawn.append(folder / name)
    return drawn


def _figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of everything that a folder of results has CSVs of."""
    file = folder / "provenance.json"
    experiment = read_json(file, "run the benchmark again").get("experiment", {}) if file.is_file() else {}
    if experiment and (folder / "table.csv").is_file():
        yield "front", draw_front(folder, experiment)
    if experiment.get("snapshots"):
        yield "trajectories", write_trajectories(folder, experiment)
    if (folder / "paths.csv").is_file():
        yield "paths", draw_paths(folder / "paths.csv")
    if (folder / RECORD).is_file():
        for name, part in PARTS.items():
            path = folder / f"{name}.csv"
            if path.is_file() and len(table := read_part(part, path)):
                yield name, part.draw(table)
