"""The tables of an experiment, as DataFrames of what is printed or of plain numbers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from math import nan
from pathlib import Path

from pandas import DataFrame, Series

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.spec import Claim
from dti_repro.experiments.statistics import Interval, Paired, holm, paired, t_interval, verdict

SubjectMeans = Mapping[str, Mapping[str, float]]  # metric -> subject -> mean over its images
DIFFERENCE_COLUMNS = ("row", "minus", "metric", "difference", "t_low", "t_high", "bca_low", "bca_high", "p")


@dataclass(frozen=True)
class Row:
    """A row of a table: its scores by metric and subject, and the cells of its other columns by column head."""

    name: str
    label: str
    scores: SubjectMeans
    extras: Mapping[str, str] = field(default_factory=dict)

    def interval(self, metric: str) -> Interval:
        """Return the mean over subjects and its 95% t interval; of 0 subjects where there are no scores."""
        values = list(self.scores.get(metric, {}).values())
        return t_interval(values) if values else Interval(nan, nan, nan, 0)

    def minus(self, other: Row, metric: str) -> Paired | None:
        """Return the difference to another row over the subjects that both have; None where there are none.

        Real references have no text scores, and no image score for a subject with a single photo.
        """
        ours, theirs = self.scores.get(metric, {}), other.scores.get(metric, {})
        subjects = sorted(ours.keys() & theirs.keys())
        return paired([ours[s] for s in subjects], [theirs[s] for s in subjects]) if subjects else None


def means_table(rows: Sequence[Row], metrics: Mapping[str, str], extras: Sequence[str]) -> DataFrame:
    """Return what is printed of each row: mean ± half of the 95% t interval over subjects, then the other columns.

    metrics: metric -> column head. extras: column heads.
    """
    lines = [
        [row.label, *(row.interval(metric).text for metric in metrics), *(row.extras.get(key, "") for key in extras)]
        for row in rows
    ]
    return DataFrame(lines, columns=["row", *metrics.values(), *extras])


def numbers_table(rows: Sequence[Row], metrics: Sequence[str], extras: Sequence[str]) -> DataFrame:
    """Return the same for programs: mean, bounds of the 95% t interval and number of subjects for each metric."""
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high", "_subjects")]
    lines = [
        [row.name, row.label, *(number for metric in metrics for number in astuple(row.interval(metric)))]
        + [row.extras.get(key, "") for key in extras]
        for row in rows
    ]
    return DataFrame(lines, columns=["row", "label", *columns, *extras])


def scores_table(rows: Sequence[Row]) -> DataFrame:
    """Return the mean over images for each row, metric and subject."""
    lines = [
        [row.name, subject, metric, mean]
        for row in rows
        for metric, means in sorted(row.scores.items())
        for subject, mean in sorted(means.items())
    ]
    return DataFrame(lines, columns=["row", "concept", "metric", "mean"])


def compare(rows: Sequence[Row], baselines: Sequence[str], metrics: Sequence[str]) -> DataFrame:
    """Return DIFFERENCE_COLUMNS of every row minus each baseline, where both have two or more subjects in common."""
    by_name = {row.name: row for row in rows}
    lines = []
    for baseline in baselines:
        for row, metric in ((row, metric) for row in rows if row.name != baseline for metric in metrics):
            found = row.minus(by_name[baseline], metric)
            if found is not None and found.t.n > 1:
                t, bca = found.t, found.bca
                lines.append([row.name, baseline, metric, t.mean, t.low, t.high, bca.low, bca.high, found.p])
    return DataFrame(lines, columns=DIFFERENCE_COLUMNS)


def differences_table(differences: DataFrame, labels: Mapping[str, str], titles: Mapping[str, str]) -> DataFrame:
    """Return what is printed of `compare`: both intervals, the p-value, and Holm's correction over the whole table."""
    return DataFrame(
        {
            "row": differences["row"].map(labels),
            "minus": differences["minus"].map(labels),
            "metric": differences["metric"].map(titles),
            "difference": differences["difference"].map("{:+.3f}".format),
            "95% t": list(map(_bounds, differences["t_low"], differences["t_high"])),
            "95% BCa": list(map(_bounds, differences["bca_low"], differences["bca_high"])),
            "p (sign flip)": differences["p"].map("{:.4f}".format),
            "p (Holm)": Series(holm(differences["p"]), differences.index, float).map("{:.4f}".format),
        }
    )


def claims_table(claims: Sequence[Claim], rows: Mapping[str, Row], titles: Mapping[str, str]) -> DataFrame:
    """Return each claim with its source, its paired difference and the verdict (see `statistics.verdict`).

    p-values are corrected by Holm over the metrics that one claim is measured by.
    """
    lines = []
    for claim in claims:
        found = {metric: rows[claim.better].minus(rows[claim.worse], metric) for metric in claim.metrics}
        measured = {metric: d for metric, d in found.items() if d is not None}
        adjusted = dict(zip(measured, holm([d.p for d in measured.values()]), strict=True))
        for metric, d in found.items():
            cells = ["", "", "", "", "not measured"]
            if d is not None:
                bounds = _bounds(d.t.low, d.t.high) if d.t.n > 1 else ""
                cells = [f"{d.t.mean:+.3f}", bounds, f"{d.p:.4f}", f"{adjusted[metric]:.4f}", verdict(d)]
            lines.append([claim.says, claim.source, titles[metric], *cells])
    columns = ["claim", "source", "measured by", "difference", "95% t", "p (sign flip)", "p (Holm)", "verdict"]
    return DataFrame(lines, columns=columns)


def latex(table: DataFrame, columns: str, made_by: str) -> str:
    """Return a table for booktabs, with the command that makes it in comments above. columns: their alignment."""
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    body = style.to_latex(hrules=True, column_format=columns).replace("±", r"$\pm$")
    return "".join(f"% {line}\n" for line in f"Made by {made_by}".splitlines()) + body


def write_csv(path: Path, table: DataFrame, float_format: str | None = None) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format=float_format, encoding="utf-8", lineterminator="\n")


def _bounds(low: float, high: float) -> str:
    return f"[{low:+.3f}, {high:+.3f}]"
