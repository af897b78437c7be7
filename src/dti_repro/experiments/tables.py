"""Result tables as markdown and CSV, from score rows. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.statistics import Interval, Paired, holm, paired, t_interval, verdict

SubjectMeans = Mapping[str, Mapping[str, float]]  # metric -> subject -> mean over its images


@dataclass(frozen=True)
class Row:
    """One line of a table: its scores by metric and subject, and other facts to print as they are."""

    name: str
    label: str
    scores: SubjectMeans
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """An ordering: ``better`` scores higher than ``worse`` on ``metric``. ``source`` is who says so: a paper, or the
    author of the experiment."""

    better: str
    worse: str
    metric: str
    text: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """Row ``a`` minus row ``b`` on one metric, over the subjects that both have."""

    a: str
    b: str
    metric: str
    difference: Paired


def means_table(rows: Sequence[Row], metrics: Mapping[str, str], facts: Sequence[str]) -> list[list[str]]:
    """Header and one line per row: mean +- half of the 95% t interval over subjects. ``metrics``: name ->
    column title."""
    lines = [["row", *metrics.values(), *facts]]
    for row in rows:
        cells = [_mean_cell(row.scores.get(metric, {})) for metric in metrics]
        lines.append([row.label, *cells, *(row.facts.get(fact, "") for fact in facts)])
    return lines


def compare(rows: Sequence[Row], baseline: str, metrics: Sequence[str]) -> list[Comparison]:
    """Every other row minus ``baseline``, metric by metric, where both have two or more subjects in common."""
    by_name = {row.name: row for row in rows}
    pairs = [(row.name, metric) for row in rows if row.name != baseline for metric in metrics]
    found = [(name, metric, difference(by_name, name, baseline, metric)) for name, metric in pairs]
    return [Comparison(name, baseline, metric, d) for name, metric, d in found if d is not None and d.t.n > 1]


def difference(rows: Mapping[str, Row], a: str, b: str, metric: str) -> Paired | None:
    """Return a - b, paired by subject, over the subjects that both have; None where there are none.

    Real references have no score for a subject with a single photo.
    """
    if a not in rows or b not in rows:
        return None
    left, right = rows[a].scores.get(metric, {}), rows[b].scores.get(metric, {})
    subjects = sorted(left.keys() & right.keys())
    return paired([left[s] for s in subjects], [right[s] for s in subjects]) if subjects else None


def comparison_table(
    comparisons: Sequence[Comparison], labels: Mapping[str, str], titles: Mapping[str, str]
) -> list[list[str]]:
    """Differences with both intervals, exact p-value and Holm's correction over the whole table."""
    adjusted = holm([c.difference.p for c in comparisons])
    lines = [["row", "minus", "metric", "difference", "95% t", "95% BCa", "p (sign flip)", "p (Holm)"]]
    for c, p in zip(comparisons, adjusted, strict=True):
        t, bca = c.difference.t, c.difference.bca
        lines.append(
            [
                labels[c.a],
                labels[c.b],
                titles[c.metric],
                f"{t.mean:+.3f}",
                _bounds(t),
                _bounds(bca),
                f"{c.difference.p:.4f}",
                f"{p:.4f}",
            ]
        )
    return lines


def claims_table(claims: Sequence[Claim], rows: Mapping[str, Row], titles: Mapping[str, str]) -> list[list[str]]:
    """Return each ordering with who claims it, its paired difference and the verdict (see statistics.verdict).

    p-values are corrected by Holm over the metrics that one claim is measured by.
    """
    differences = [difference(rows, c.better, c.worse, c.metric) for c in claims]
    lines = [["claim", "source", "measured by", "difference", "95% t", "p (sign flip)", "p (Holm)", "verdict"]]
    for claim, d in zip(claims, differences, strict=True):
        start = [claim.text, claim.source, titles[claim.metric]]
        if d is None:
            lines.append([*start, "", "", "", "", "not measured"])
            continue
        family = [f.p for c, f in zip(claims, differences, strict=True) if c.text == claim.text and f is not None]
        adjusted = holm(family)[family.index(d.p)]
        lines.append([*start, f"{d.t.mean:+.3f}", _bounds(d.t), f"{d.p:.4f}", f"{adjusted:.4f}", verdict(d)])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table; the first line is its header. Bars in cells are escaped, line breaks become spaces."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * max(3, width) for width in widths]
    padded = [[cell.ljust(len(r)) for cell, r in zip(line, rule, strict=True)] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]]) + "\n"


def write_csv(path: Path, lines: Sequence[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _bounds(interval: Interval) -> str:
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]" if interval.n > 1 else ""


def _mean_cell(by_subject: Mapping[str, float]) -> str:
    if not by_subject:
        return ""
    interval = t_interval(list(by_subject.values()))
    return f"{interval.mean:.3f}" + (f" ± {interval.half_width:.3f}" if interval.n > 1 else "")
