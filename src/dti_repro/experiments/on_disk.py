"""What of an experiment is there already: finished rows, and results that were written before.

Nothing here trains, draws or scores, and nothing imports torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pandas import DataFrame, read_csv

from dti_repro.artifacts.files import read_json
from dti_repro.backbones.location import on_this_machine
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.notes import MASKED, STOPPED, notes_of
from dti_repro.experiments.report import Report
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.experiments.stages import RowResult, is_trained, list_image_folders, list_score_files, with_kappa
from dti_repro.experiments.tables import Row
from dti_repro.experiments.training_columns import start_file


def rows_on_disk(run: ExperimentRun, masks: Path | None) -> list[RowResult]:
    """Return the rows that are trained, drawn and scored whole, in the experiment's order. InputError where weights,
    prompts or masks that they need are not on this machine, or photos have changed."""
    backbone = run.generate_config().backbone
    if on_this_machine(backbone) is None:
        raise InputError(f"the weights {backbone.path} are not on this machine")
    run.check_masks(masks)
    found: dict[str, RowResult] = {}
    for row in run.experiment.rows:
        if row.kappa is not None and row.kappa.of not in found:  # its folder is known by the other row's training
            continue
        row = with_kappa(row, found)
        result = RowResult(row, run.train_configs(row))
        if not all(is_trained(run, cfg) for cfg in result.cfgs):
            continue
        result.folders = [folder for cfg in result.cfgs for folder in run.concept_folders(cfg)]
        list_image_folders(run, [result])
        norms = start_file(run, result)
        if (norms is not None and not norms.is_file()) or any(folder.missing() for folder in result.image_folders):
            continue
        if not any(file.missing(run.metrics(), masks) for file in list_score_files(run, [result])):
            found[row.name] = result
    return list(found.values())


def stored_report(folder: Path, run: ExperimentRun, command: str) -> Report:
    """Return the report that table.md, table.csv and scores.csv of a result hold, with rows and columns as they are
    there. InputError that names a missing or damaged file, and for a result that another command made."""
    table = _read(folder / "table.csv", {"row", "label"})
    numbers = _read(folder / "scores.csv", {"row", "concept", "metric", "mean"})
    scores: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    try:
        page = (folder / "table.md").read_text(encoding="utf-8")
        text = page.split("\n\n")[1]
        for line in numbers.itertuples():
            scores[line.row][line.metric][line.concept] = float(line.mean)
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{folder} holds no whole result ({error}): run the benchmark again") from error
    maker, about = text.removeprefix("Made by `").split("`. ", 1) if "`. " in text else ("unknown", text)
    if maker != command:
        raise InputError(f"{folder} is not the result of {command}: give the keys that it was made with: {maker}")
    measured = [head for head in table if f"{head}_subjects" in table]
    numeric = {f"{name}{end}" for name in measured for end in ("", "_low", "_high", "_subjects")}
    extras = [head for head in table if head not in numeric | {"row", "label"}]
    cells = table[extras].to_dict("records")
    rows = [
        Row(name, label, scores.get(name, {}), of_row)
        for name, label, of_row in zip(table["row"], table["label"], cells, strict=True)
    ]
    experiment = _as_stored(run.experiment, rows, measured, folder)
    stopped = [line.removeprefix("- ") for line in page.splitlines() if STOPPED in line]  # which only the logs say
    notes = [*notes_of(experiment, run.generate_config().backbone, MASKED in about), *stopped]
    return Report(experiment, command, about, rows, extras, notes)


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
        claims=tuple(
            replace(claim, metrics=tuple(metric for metric in claim.metrics if metric in metrics))
            for claim in experiment.claims
            if {claim.better, claim.worse} <= {*names}
        ),
        baselines=tuple(name for name in experiment.baselines if name in names),
        notes=experiment.notes + ((f"Rows without a result here: {', '.join(left_out)}.",) if left_out else ()),
    )


def agreeing(results: Sequence[RowResult], report: Report) -> list[RowResult]:
    """Return the rows whose score files say what the report says: their pictures are those behind its numbers."""
    reported = {row.name: row.scores for row in report.rows}
    return [r for r in results if r.means(report.experiment.metrics) == reported.get(r.spec.name)]


def _read(path: Path, heads: set[str]) -> DataFrame:
    """Return the texts of a csv. InputError unless it has these heads and a line."""
    try:
        table = read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): run the benchmark first") from error
    if not heads <= {*table} or table.empty:
        raise InputError(f"{path} is no table of a benchmark: run it again")
    return table
