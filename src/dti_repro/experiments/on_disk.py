"""What of an experiment is there already: finished rows, and results that were written before.

Nothing here trains, draws or scores, and nothing imports torch.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dti_repro.artifacts.files import read_json
from dti_repro.backbones.location import on_this_machine
from dti_repro.data.masks import check_masks
from dti_repro.errors import InputError
from dti_repro.experiments.notes import MASKED, notes_of
from dti_repro.experiments.report import Report
from dti_repro.experiments.runner import (
    ExperimentRun,
    RowResult,
    concept_folders,
    is_trained,
    list_image_folders,
    list_score_files,
    means_of,
    with_kappa,
)
from dti_repro.experiments.search import mismatched_files
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.experiments.tables import Row, compare
from dti_repro.experiments.training_columns import has_start_norms
from dti_repro.metrics.catalogue import metric_config


def rows_on_disk(run: ExperimentRun, masks: Path | None) -> list[RowResult]:
    """Return the rows that are trained, drawn and scored whole, in the experiment's order. InputError where weights,
    prompts or masks that they need are not on this machine, or photos have changed."""
    backbone = run.generate_config().backbone
    if on_this_machine(backbone) is None:
        raise InputError(f"the weights {backbone.path} are not on this machine")
    for concept in run.concepts.values() if masks else ():
        check_masks(masks, concept.name, concept.images)
    configs = {name: metric_config(name) for name in run.experiment.metrics}
    found: dict[str, RowResult] = {}
    for row in run.experiment.rows:
        if row.kappa is not None and row.kappa.of not in found:
            continue  # its folder is known by the other row's training
        result = _trained(run, with_kappa(row, found))
        if result is None:
            continue
        list_image_folders(run, [result])
        if any(folder.missing() for folder in result.image_folders):
            continue
        files = list_score_files(run, [result]) + (mismatched_files([result]) if run.experiment.search else [])
        if not any(file.missing(configs, masks) for file in files):
            found[row.name] = result
    return list(found.values())


def _trained(run: ExperimentRun, row: RowSpec) -> RowResult | None:
    """Return the row with its trained concepts; None if one of them is missing."""
    result = RowResult(row, [] if row.bound else run.train_configs(row))
    if not all(is_trained(run, cfg) for cfg in result.cfgs):
        return None
    result.folders = [folder for cfg in result.cfgs for folder in concept_folders(run, cfg)]
    return result if has_start_norms(run, result) else None


def stored_report(folder: Path, run: ExperimentRun, command: str) -> Report:
    """Return the report that table.md, table.csv and scores.csv of a result hold, with rows and columns as they are
    there. InputError that names a missing or damaged file, and for a result that another command made."""
    lines, heads = _read(folder / "table.csv", {"row", "label"})
    numbers, _ = _read(folder / "scores.csv", {"row", "concept", "metric", "mean"})
    try:
        text = (folder / "table.md").read_text(encoding="utf-8").split("\n\n")[1]
        scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for line in numbers:
            scores[line["row"]][line["metric"]][line["concept"]] = float(line["mean"])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{folder} holds no whole result ({error}): run the benchmark again") from error
    maker, about = text.removeprefix("Made by `").split("`. ", 1) if "`. " in text else ("unknown", text)
    if maker != command:
        raise InputError(f"{folder} is not the result of {command}: give the keys that it was made with: {maker}")
    measured = [head for head in heads if f"{head}_subjects" in heads]
    numeric = {f"{name}{end}" for name in measured for end in ("", "_low", "_high", "_subjects")}
    extras = [head for head in heads if head not in numeric | {"row", "label"}]
    rows = [
        Row(line["row"], line["label"], scores.get(line["row"], {}), {head: line[head] for head in extras})
        for line in lines
    ]
    experiment = _as_stored(run.experiment, rows, measured, folder)
    differences = compare(rows, experiment.baselines, list(experiment.metrics))
    notes = notes_of(experiment, run.generate_config().backbone, MASKED in about)
    return Report(experiment, command, about, rows, extras, notes, differences)


def _as_stored(experiment: Experiment, rows: Sequence[Row], measured: Sequence[str], folder: Path) -> Experiment:
    """Return the experiment with the rows, metrics and overrides of a result, which may be older than its yaml."""
    titles = experiment.metrics
    metrics = {name: titles.get(name, name) for name in [*(m for m in titles if m in measured), *measured]}
    if missing := [name for name in (experiment.image, experiment.text[0]) if name not in metrics]:
        raise InputError(f"{folder / 'table.csv'} has no column {missing[0]}: run the benchmark again")
    file = folder / "provenance.json"
    overrides = read_json(file, "remove it").get("overrides", {}) if file.is_file() else {}
    known, names = {row.name: row for row in experiment.rows}, [row.name for row in rows]
    left_out = [row.label for row in experiment.rows if row.name not in names]
    return replace(
        experiment,
        metrics=metrics,
        rows=tuple(
            replace(known.get(row.name, RowSpec(row.name, row.label)), overrides=tuple(overrides.get(row.name, ())))
            for row in rows
        ),
        claims=tuple(c for c in experiment.claims if {c.better, c.worse} <= {*names} and c.metric in metrics),
        baselines=tuple(name for name in experiment.baselines if name in names),
        notes=experiment.notes + ((f"Rows without a result here: {', '.join(left_out)}.",) if left_out else ()),
    )


def agreeing(results: Sequence[RowResult], report: Report) -> list[RowResult]:
    """Return the rows whose score files say what the report says: their pictures are those behind its numbers."""
    reported: Mapping[str, object] = {row.name: row.scores for row in report.rows}
    metrics = report.experiment.metrics
    return [r for r in results if means_of(r.score_files, metrics) == reported.get(r.spec.name)]


def _read(path: Path, heads: set[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the lines of a csv by head, and its heads. InputError unless it has these heads and no line is cut."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lines, found = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): run the benchmark first") from error
    if not heads <= {*found} or any(None in line or None in line.values() for line in lines):
        raise InputError(f"{path} is no table of a benchmark: run it again")
    return lines, found
