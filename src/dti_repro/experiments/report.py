"""The files that an experiment leaves: table.md, table.csv, scores.csv, differences.csv, front.png, report.html.
Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.deviations import deviations
from dti_repro.experiments.front import save_front
from dti_repro.experiments.page import Section, Sheet, write_page
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.statistics import ENOUGH, t_interval
from dti_repro.experiments.tables import (
    Row,
    claims_table,
    compare,
    comparison_table,
    markdown,
    means_table,
    write_csv,
)


@dataclass(frozen=True)
class Setting:
    """What made the table, and what its numbers are means over."""

    command: str
    backbone: str  # the class's dotted name
    subjects: Sequence[str]
    prompts: str  # the set's name
    prompt_count: int
    training_seeds: Sequence[int]
    image_seeds: Sequence[int]
    masked: bool = False  # whether references were black outside of their masks
    reading: Mapping[str, str] = field(default_factory=dict)  # the backbone's keys of how a prompt is read


def write_report(
    folder: Path,
    experiment: Experiment,
    setting: Setting,
    rows: Sequence[Row],
    facts: Sequence[str],
    sheets: Sequence[Sheet],
) -> None:
    """All files of one experiment; equal inputs give equal bytes."""
    sections, notes = _sections(experiment, setting, rows, facts), _notes(experiment, setting)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(_markdown(experiment.title, sections, notes), encoding="utf-8")
    write_csv(folder / "table.csv", _wide(experiment, rows, facts))
    write_csv(folder / "scores.csv", _per_subject(rows))
    write_csv(folder / "differences.csv", _differences(experiment, rows))
    bounds = [row.name for row in experiment.rows if row.bound]
    front = folder / "front.png"
    save_front(front, rows, bounds, experiment.image, experiment.text[0], experiment.metrics)
    labels = {row.name: row.label for row in rows}
    write_page(folder / "report.html", experiment.title, sections, notes, front, sheets, labels)


def _markdown(title: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    parts = [f"# {title}\n"]
    for section in sections:
        parts += [f"## {section.title}\n"] if section.title else []
        parts += [f"{section.text}\n", markdown(section.lines)]
    return "\n".join([*parts, "## Notes\n", *(f"- {note}" for note in notes), ""])


def _sections(experiment: Experiment, setting: Setting, rows: Sequence[Row], facts: Sequence[str]) -> list[Section]:
    by_name = {row.name: row for row in rows}
    labels = {row.name: row.label for row in rows}
    n = len(setting.subjects)
    references = "black outside of their masks" if setting.masked else "as they are"
    keys = {key: " ".join(value.split()) for key, value in setting.reading.items()}
    reading = "".join(f"Prompts are read with `backbone.{key}={value}`. " for key, value in keys.items())
    about = (
        f"Made by `{setting.command}`. {n} subjects "
        f"({', '.join(setting.subjects)}), {setting.prompt_count} prompts (`{setting.prompts}`), "
        f"{_trainings(setting.training_seeds)}{len(setting.image_seeds)} image seeds; image scores compare with "
        f"references {references}. "
        f"{reading}Cells: mean over subjects ± half of its 95% t interval."
    )
    sections = [Section("", about, means_table(rows, experiment.metrics, facts))]
    if experiment.claims:
        how = (
            "holds: the paired 95% t interval over subjects lies wholly on the claimed side, and the sign-flip test "
            "gives p <= .05; does not: both say the opposite; undecided: anything else; too few subjects: fewer than "
            f"{ENOUGH}. p (Holm) is corrected over the metrics of one claim; the verdict does not use it."
        )
        verdicts = claims_table(experiment.claims, by_name, experiment.metrics)
        sections.append(Section("Claims", how, verdicts))
    for baseline in experiment.baselines:
        differences = compare(rows, baseline, list(experiment.metrics))
        how = (
            "Over the subjects that both rows have; p is the exact two-sided sign-flip test's, corrected by Holm over "
            "this table."
        )
        lines = comparison_table(differences, labels, experiment.metrics)
        sections.append(Section(f"Paired differences from {labels[baseline]}", how, lines))
    return sections


def _trainings(seeds: Sequence[int]) -> str:
    """Nothing where nothing was trained."""
    return f"{len(seeds)} training seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}), " if seeds else ""


def _notes(experiment: Experiment, setting: Setting) -> list[str]:
    notes = [
        "`norm` is the learned vector's, `on noise` the norm that AdamW gives a vector of this start, rate, decay and "
        "number of steps on random gradients: a norm near it says nothing about what was learned.",
        "`gradient` is the median norm of the gradient that the optimizer was given; kappa acts relative to it.",
        "`minutes` is training time a subject, subjects trained in packs.",
        "The image-text front is front.png, drawn from table.csv. grid.png: the first subject by name with the first "
        "image seed, all prompts.",
    ]
    sources = {row.published.source for row in experiment.rows if row.published}
    published = [f"Published numbers: {source}." for source in sorted(sources)]
    different = map(str, deviations(setting.backbone, setting.masked))
    return [*notes, *published, *different, *experiment.notes]


def _wide(experiment: Experiment, rows: Sequence[Row], facts: Sequence[str]) -> list[list[object]]:
    header: list[object] = ["row", "label"]
    for metric in experiment.metrics:
        header += [metric, f"{metric}_low", f"{metric}_high", f"{metric}_subjects"]
    lines = [[*header, *facts]]
    for row in rows:
        line: list[object] = [row.name, row.label]
        for metric in experiment.metrics:
            values = list(row.scores.get(metric, {}).values())
            interval = t_interval(values) if values else None
            line += [interval.mean, interval.low, interval.high, interval.n] if interval else ["", "", "", 0]
        lines.append([*line, *(row.facts.get(fact, "") for fact in facts)])
    return lines


def _per_subject(rows: Sequence[Row]) -> list[list[object]]:
    lines: list[list[object]] = [["row", "concept", "metric", "mean"]]
    for row in rows:
        for metric, by_subject in sorted(row.scores.items()):
            lines += [[row.name, subject, metric, value] for subject, value in sorted(by_subject.items())]
    return lines


def _differences(experiment: Experiment, rows: Sequence[Row]) -> list[list[object]]:
    lines: list[list[object]] = [
        ["row", "minus", "metric", "difference", "t_low", "t_high", "bca_low", "bca_high", "p"]
    ]
    for baseline in experiment.baselines:
        for c in compare(rows, baseline, list(experiment.metrics)):
            t, bca = c.difference.t, c.difference.bca
            lines.append([c.a, c.b, c.metric, t.mean, t.low, t.high, bca.low, bca.high, c.difference.p])
    return lines
