"""The result of an experiment and its files: tables as Markdown and CSV, provenance.json.

Imports no torch, except to write a new provenance.json.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import sub
from pathlib import Path
from typing import Any

from pandas import DataFrame

from dti_repro.artifacts.files import read_json, sha256, write_file, write_json
from dti_repro.artifacts.provenance import machines, provenance
from dti_repro.artifacts.run_dir import final_norm
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.notes import DIFFERENCES, VERDICTS, about, notes_of, steps_used
from dti_repro.experiments.search import COLUMNS as SEARCH_COLUMNS
from dti_repro.experiments.search import search
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.stages import RowResult
from dti_repro.experiments.tables import (
    Row,
    claims_table,
    compare,
    differences_table,
    means_table,
    numbers_table,
    scores_table,
    write_csv,
)
from dti_repro.experiments.training_columns import COLUMNS, start_norms, training_columns

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph (`code` in backticks) and a table."""

    title: str
    text: str
    table: DataFrame


@dataclass(frozen=True)
class Report:
    """What a result says. command: what makes it again; about: what its numbers are means over; extras: the heads of
    the columns after the metrics."""

    experiment: Experiment
    command: str
    about: str
    rows: Sequence[Row]
    extras: Sequence[str]
    notes: Sequence[str]

    @cached_property
    def differences(self) -> DataFrame:
        """The differences of every row to each baseline."""
        return compare(self.rows, self.experiment.baselines, list(self.experiment.metrics))

    @property
    def means(self) -> DataFrame:
        return means_table(self.rows, self.experiment.metrics, self.extras)

    @property
    def claims(self) -> Section | None:
        experiment = self.experiment
        if not experiment.claims:
            return None
        by_name = {row.name: row for row in self.rows}
        return Section("Claims", VERDICTS, claims_table(experiment.claims, by_name, experiment.metrics))

    @property
    def compared(self) -> list[Section]:
        """Return the paired differences from each baseline."""
        labels = {row.name: row.label for row in self.rows}
        found = []
        for name in self.experiment.baselines:
            chosen = self.differences[self.differences["minus"] == name]
            table = differences_table(chosen, labels, self.experiment.metrics)
            found.append(Section(f"Paired differences from {labels[name]}", DIFFERENCES, table))
        return found


def tabulate(
    run: ExperimentRun, results: Sequence[RowResult], command: str, masked: bool, searched: Path | None
) -> Report:
    """Return the report of rows whose stages have all run. searched: the yaml that a search writes; None: none."""
    experiment = run.experiment
    found = search(experiment, results, searched) if experiment.search else {}
    rows = []
    for result in results:
        extras = training_columns(run, result) | found.get(result.spec.name, {})
        rows.append(Row(result.spec.name, result.spec.label, result.means(experiment.metrics), extras))
    extras = (*COLUMNS, *(SEARCH_COLUMNS if experiment.search else ()))
    report = make_report(run, rows, extras, command, masked)
    return replace(report, notes=[*report.notes, *steps_used(results)])


def make_report(run: ExperimentRun, rows: Sequence[Row], extras: Sequence[str], command: str, masked: bool) -> Report:
    """Return the report of rows with scores. command: what makes the table again. masked: whether references were
    black outside of their masks."""
    backbone = run.generate_config().backbone
    notes = notes_of(run.experiment, backbone, masked)
    return Report(run.experiment, command, about(run, backbone, masked), rows, extras, notes)


def write_tables(folder: Path, report: Report) -> None:
    """Write table.md, table.csv, scores.csv and differences.csv; equal reports give equal bytes."""
    sections = [
        Section("", f"Made by `{report.command}`. {report.about}", report.means),
        *([report.claims] if report.claims else []),
        *report.compared,
    ]
    parts = [f"# {report.experiment.title}\n"]
    for section in sections:
        parts += [f"## {section.title}\n"] if section.title else []
        parts += [f"{section.text}\n", markdown([section.table.columns, *section.table.values])]
    notes = ["## Notes\n", *(f"- {note}" for note in report.notes), ""]
    write_file(folder / "table.md", "\n".join([*parts, *notes]))
    write_csv(folder / "table.csv", numbers_table(report.rows, list(report.experiment.metrics), report.extras))
    write_csv(folder / "scores.csv", scores_table(report.rows))
    write_csv(folder / "differences.csv", report.differences)


def write_words(folder: Path, run: ExperimentRun, results: Sequence[RowResult]) -> None:
    """Write words.csv: the norm of each learned word, mean over training seeds, its norm at the start and, where AdamW
    steps free vectors, the norm on random gradients, which is one number for all words of a row."""
    lines = []
    for result in results:
        if not result.cfgs or result.spec.snapshot is not None:
            continue
        before = start_norms(run, result)
        for name in run.concepts:
            norms = {"norm": final_norm([folder for folder in result.folders if folder.name == name])}
            norms |= {measure: of[name] if measure == "start" else of for measure, of in before.items()}
            lines += [[result.spec.name, name, measure, value] for measure, value in norms.items()]
    write_csv(folder / "words.csv", DataFrame(lines, columns=["row", "concept", "measure", "value"]))


def write_provenance(
    folder: Path, experiment: Experiment, results: Sequence[RowResult], clock: Sequence[float]
) -> None:
    """Write how scores.csv was made. If provenance.json is already about these scores, only the settings are written
    again. The minutes are those of this command, without its jobs'. clock: when training, generation and scoring began
    and when scoring ended, in s."""
    if update_provenance(folder, experiment, results):
        return
    from dti_repro.backbones.load import device_of

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()  # "" for an installed package
    seconds = zip(("train", "generate", "score"), map(sub, clock[1:], clock), strict=True)
    folders = [folder for result in results for folder in result.folders]
    scored = [file.provenance for result in results for file in result.score_files]
    content = {
        **provenance(clock[0], device_of("auto")),
        "scores_sha256": sha256(folder / "scores.csv"),
        "commit": commit or None,
        "minutes": {stage: round(duration / 60, 2) for stage, duration in seconds},
        "machines": machines(folders, scored),
        **_settings(experiment, results),
    }
    write_json(folder / PROVENANCE, content)


def update_provenance(folder: Path, experiment: Experiment, results: Sequence[RowResult]) -> bool:
    """Write the experiment's settings into provenance.json if it is about these scores, and return whether it is."""
    file = folder / PROVENANCE
    before = read_json(file, "remove it") if file.is_file() else {}
    if before.get("scores_sha256") != sha256(folder / "scores.csv"):
        return False
    write_json(file, before | _settings(experiment, results))
    return True


def _settings(experiment: Experiment, results: Sequence[RowResult]) -> dict[str, Any]:
    """Return what provenance.json says of an experiment besides how its scores were made."""
    folders = {result.spec.name: result.folders for result in results if result.folders}
    return {
        "experiment": asdict(experiment),
        "runs": {name: sorted({str(folder.seed_folder) for folder in row}) for name, row in folders.items()},
        "overrides": {result.spec.name: list(result.spec.overrides) for result in results},
    }
