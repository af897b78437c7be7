"""The image-text front: every row as a point, with intervals; what no other row beats on both axes is
joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.statistics import Interval, t_interval
from dti_repro.experiments.tables import Row


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other point beats on one axis without losing on the other, by rising first
    axis."""
    best = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(best, key=lambda name: points[name])


def save_front(
    path: Path, rows: Sequence[Row], bounds: Sequence[str], image: str, text: str, titles: Mapping[str, str]
) -> None:
    """Scatter of mean image against mean text score over subjects, bars being 95% t intervals.

    Rows that lack one of the two (real references have no text) are left out; bounds (by name) are drawn
    hollow and take no part in the front.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if image in row.scores and text in row.scores]
    at = {row.name: (_interval(row, text), _interval(row, image)) for row in shown}
    figure, axes = pyplot.subplots(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    for row in shown:
        x, y = at[row.name]
        hollow = {"markerfacecolor": "white", "color": "grey"} if row.name in bounds else {}
        bars = {"xerr": _bar(x), "yerr": _bar(y)} if x.n > 1 else {}
        axes.errorbar(x.mean, y.mean, fmt="o", markersize=5, elinewidth=0.6, capsize=2, **bars, **hollow)
        axes.annotate(row.label, (x.mean, y.mean), xytext=(4, 4), textcoords="offset points", fontsize=7)
    means = {name: (x.mean, y.mean) for name, (x, y) in at.items() if name not in bounds}
    line = [means[name] for name in front(means)]
    axes.plot([x for x, _ in line], [y for _, y in line], color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel=f"text ({titles[text]})", ylabel=f"image ({titles[image]})")
    axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
    pyplot.close(figure)


def _interval(row: Row, metric: str) -> Interval:
    return t_interval(list(row.scores[metric].values()))


def _bar(interval: Interval) -> float:
    return interval.half_width
