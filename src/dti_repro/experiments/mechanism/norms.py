"""The norms of the vocabulary's rows, and where learned words lie among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.part import VOCABULARY, Measured, Row, published
from dti_repro.experiments.style import COLORS, encoder_panels, legend, line_style, log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    from dti_repro.experiments.mechanism.inputs import Inputs

NAME = "vocabulary_norms"
TITLE = "Norms of the vocabulary"
COLUMNS = {"encoder": str, "kind": str, "name": str, "low": float, "high": float, "value": float}
KEYS = ()
BINS = 50
STATISTICS = ("rows", "mean", "median", "min", "max", "spread")


def measure(inputs: Inputs) -> Measured:
    """Return the statistics of the rows that are not all zero (spread: their standard deviation), a histogram, and the
    norm of each learned word."""
    import numpy as np

    from dti_repro.backbones.base import row_norms

    rows: list[Row] = []
    for name, encoder in inputs.encoders.items():
        norms = row_norms(encoder.table).numpy()
        norms = norms[norms > 0]
        values = (len(norms), norms.mean(), np.median(norms), norms.min(), norms.max(), norms.std(ddof=1))
        for statistic, value in zip(STATISTICS, values, strict=True):
            rows.append({"encoder": name, "kind": "statistic", "name": statistic, "value": float(value)})
        counts, edges = np.histogram(norms, BINS)
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            bounds = {"low": float(low), "high": float(high), "value": float(count)}
            rows.append({"encoder": name, "kind": "bin", "name": "", **bounds})
        for word in inputs.words(name):
            if word.group != VOCABULARY:
                value = float(word.vector.norm())
                rows.append({"encoder": name, "kind": word.group, "name": word.name, "value": value})
    return rows, []


def draw(table: DataFrame) -> Figure:
    figure, panels = encoder_panels(table, TITLE)
    for rows, axes in panels:
        bins = rows[rows["kind"] == "bin"]
        edges = [*bins["low"], bins["high"].iloc[-1]]
        axes.stairs(bins["value"], edges, fill=True, color=COLORS[5], label="vocabulary")
        axes.axvline(_statistics(rows)["mean"], color="black", linewidth=1.2, label="mean of the vocabulary")
        axes.set(xlabel="norm of the row", ylabel="words")
        for k, (group, values) in enumerate(_learned(rows)):
            style = {**line_style(k + 1), "linestyle": ""}
            axes.plot(values, [0] * len(values), **style, clip_on=False, label=group, zorder=5)
        if _learned(rows):
            log_scale(axes.xaxis)
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    lines = [["", *STATISTICS]]
    learned = [["learned words", "n", "mean norm", "smallest", "largest"]]
    for encoder, rows in table.groupby("encoder", sort=False):
        lines.append([encoder, *_numbers(_statistics(rows))])
        for group, values in _learned(rows):
            cells = (values.mean(), values.min(), values.max())
            learned.append([f"{group}, {encoder}", str(len(values)), *(f"{value:.3f}" for value in cells)])
    for name, values in published()["vocabulary_norms"].items():
        lines.append([f"published, {name}", *_numbers(values)])
    text = f"Rows that are not all zero; spread is the standard deviation.\n\n{markdown(lines)}"
    if len(learned) == 1:
        return text
    for name, norms in published()["learned_norms"].items():
        learned += [[f"published, {m}, {name}", "1", f"{v:.3f}", "", ""] for m, v in norms.items()]
    return f"{text}\n{markdown(learned)}"


def _statistics(table: DataFrame) -> dict[str, float]:
    rows = table[table["kind"] == "statistic"]
    return dict(zip(rows["name"], rows["value"], strict=True))


def _learned(table: DataFrame) -> list[tuple[str, Series]]:
    """Return the norms of the words of each method."""
    learned = table[~table["kind"].isin(["statistic", "bin"])]
    return list(learned.groupby("kind", sort=False)["value"])


def _numbers(values: Mapping[str, float]) -> list[str]:
    """Return a cell for each of STATISTICS, "" for what is not known."""
    known = {name: f"{value:.0f}" if name == "rows" else f"{value:.4f}" for name, value in values.items()}
    return [known.get(name, "") for name in STATISTICS]
