"""The norms of the vocabulary's rows, and where learned words lie among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import (
    VOCABULARY,
    Measured,
    Part,
    Row,
    published,
    published_label,
    unique,
    where,
)
from dti_repro.experiments.mechanism.style import COLORS, legend, line_style, log_scale, panels
from dti_repro.experiments.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dti_repro.experiments.mechanism.inputs import Inputs

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
    return Measured(rows)


def draw(rows: Sequence[Row]) -> Figure:
    figure, ((*axes_of,),) = panels(unique(rows, "encoder"), title=PART.title)
    for encoder, axes in zip(unique(rows, "encoder"), axes_of, strict=True):
        here = where(rows, encoder=encoder)
        bins = where(here, kind="bin")
        edges = [row["low"] for row in bins] + [bins[-1]["high"]]
        axes.stairs([row["value"] for row in bins], edges, fill=True, color=COLORS[5], label="vocabulary")
        mean = where(here, kind="statistic", name="mean")[0]["value"]
        axes.axvline(mean, color="black", linewidth=1.2, label="mean of the vocabulary")
        for k, group in enumerate(_groups(here)):
            values = [row["value"] for row in where(here, kind=group)]
            style = {**line_style(k + 1), "linestyle": ""}
            axes.plot(values, [0] * len(values), **style, clip_on=False, label=group, zorder=5)
        axes.set(xlabel="norm of the row", ylabel="words")
        if _groups(here):
            log_scale(axes.xaxis)
    legend(figure)
    return figure


def section(rows: Sequence[Row]) -> str:
    lines = [["", *STATISTICS]]
    for encoder in unique(rows, "encoder"):
        values = {row["name"]: row["value"] for row in where(rows, encoder=encoder, kind="statistic")}
        lines.append([encoder, *(_number(name, values.get(name)) for name in STATISTICS)])
    for name, values in published()["vocabulary_norms"].items():
        label = f"published, {published_label(name)}"
        lines.append([label, *(_number(statistic, values.get(statistic)) for statistic in STATISTICS)])
    text = f"Rows that are not all zero; spread is the standard deviation.\n\n{markdown(lines)}"
    learned = [["learned words", "n", "mean norm", "smallest", "largest"]]
    for encoder in unique(rows, "encoder"):
        here = where(rows, encoder=encoder)
        for group in _groups(here):
            values = [row["value"] for row in where(here, kind=group)]
            cells = (sum(values) / len(values), min(values), max(values))
            learned.append([f"{group}, {encoder}", str(len(values)), *(f"{value:.3f}" for value in cells)])
    if len(learned) == 1:
        return text
    for name, norms in published()["learned_norms"].items():
        learned += [[f"published, {m}, {published_label(name)}", "1", f"{v:.3f}", "", ""] for m, v in norms.items()]
    return f"{text}\n{markdown(learned)}"


def _groups(rows: Sequence[Row]) -> list[str]:
    return [kind for kind in unique(rows, "kind") if kind not in ("statistic", "bin")]


def _number(statistic: str, value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if statistic == "rows" else f"{value:.4f}"


PART = Part(
    name="vocabulary_norms",
    title="Norms of the vocabulary",
    columns={"encoder": str, "kind": str, "name": str, "low": float, "high": float, "value": float},
    keys=(),
    measure=measure,
    draw=draw,
    section=section,
)
