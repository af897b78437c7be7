"""How the study's figures look: a panel for each text encoder, colours that colour-blind readers tell apart (Okabe and
Ito 2008), another mark for each line so that a print in grey can be read, PNG and PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dti_repro.artifacts.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from pandas import DataFrame

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"  # of published figures
SIZE = (5.4, 3.6)  # inches of a panel


def line_style(index: int) -> dict[str, object]:
    """Return colour and mark of a figure's line number `index`. When the colours begin again, each has other dashes and
    another mark."""
    turn = index // len(COLORS)
    mark = MARKS[(index + turn) % len(MARKS)]
    look = {"color": COLORS[index % len(COLORS)], "marker": mark, "linestyle": ("-", "--", ":")[turn % 3]}
    return {**look, "linewidth": 1.6, "markersize": 4.5}


def panels(
    titles: Sequence[str], rows: int = 1, title: str = "", width: float = SIZE[0]
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a column, `width` inches wide, for each title, and its axes by row and column."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10}):
        size = (width * len(titles), SIZE[1] * rows + 0.9)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        grid = figure.subplots(rows, len(titles), squeeze=False)
    for axes, head in zip(grid[0], titles, strict=True):
        axes.set_title(head, fontsize=10)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, [list(row) for row in grid]


def encoder_panels(table: DataFrame, title: str) -> tuple[Figure, list[tuple[DataFrame, Axes]]]:
    """Return a figure with a panel for each text encoder, and the rows and the axes of each."""
    by_encoder = dict(list(table.groupby("encoder", sort=False)))
    figure, (line,) = panels(list(by_encoder), title=title)
    return figure, list(zip(by_encoder.values(), line, strict=True))


def legend(figure: Figure) -> None:
    """Name each line once, below the panels, where it hides nothing."""
    named = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = max(2, 2 * round(figure.get_figwidth() / SIZE[0]))
    figure.legend(
        named.values(), named, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3
    )


def log_scale(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5, 10, ...; over many decades at powers of ten only."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def ticks(axes: Axes, places: Sequence[float]) -> None:
    """Mark these places of the x axis, with plain numbers, and no others."""
    axes.set_xticks(list(places), [f"{place:g}" for place in places])
    axes.minorticks_off()


FORMATS = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}  # without the metadata that change by themselves


def save(figure: Figure, path: Path) -> None:
    """Write <path>.png and <path>.pdf, with letters as text. Equal figures give equal bytes."""
    from matplotlib import rc_context

    for suffix, metadata in FORMATS.items():
        with rc_context({"pdf.fonttype": 42}), atomic_write(path.with_name(path.name + suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)


def remove(path: Path) -> None:
    """Remove the figure that an earlier call left, whose numbers are gone."""
    for suffix in FORMATS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
