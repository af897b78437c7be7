"""How the rows of a page were trained: curves from their logs, and in which settings they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from pandas import DataFrame, concat, read_csv

from dti_repro.errors import InputError
from dti_repro.experiments.report import Report
from dti_repro.experiments.stages import RowResult
from dti_repro.launch.failures import leaves

POINTS = 200  # of a curve
TITLES = {
    "loss": "loss",
    "norm": "norm of the vector",
    "angle": "angle from the start (rad)",
    "grad_norm": "norm of the gradient",
}


def curves(results: Sequence[RowResult], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each column of log.csv its title and a line for each row that was trained: points of (step, mean over
    concepts and training seeds, as far as the shortest training), thinned to at most POINTS means of neighbours.

    names: of all rows, in their order. InputError for a log that cannot be read.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        logs = [folder.log for folder in result.folders if folder.log.is_file()]
        if not logs:
            continue
        try:
            lines = concat([read_csv(log) for log in logs])
            complete = lines.groupby("step")["step"].transform("size") == len(logs)  # no training has stopped yet
            mean = lines[complete].groupby("step", as_index=False).mean(numeric_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{logs[0].parent}: a log.csv of this row cannot be read ({error})") from error
        thinned = mean.groupby(mean.index // -(-len(mean) // POINTS)).mean()
        for column in thinned.columns.drop("step"):
            points = [[round(step), float(f"{value:.5g}")] for step, value in thinned[["step", column]].values]
            found.setdefault(column, []).append({"row": names.index(result.spec.name), "points": points})
    return [{"title": TITLES.get(column, column), "name": column, "lines": lines} for column, lines in found.items()]


def settings(report: Report, results: Sequence[RowResult]) -> DataFrame:
    """Return the keys that differ between trained rows, a column for each row; the overrides of each row where not all
    runs are here, as the defaults that they had are not known."""
    trained = [row for row in report.experiment.rows if row.bound is None]
    cfgs = {result.spec.name: result.cfgs[0] for result in results if result.cfgs}
    if not trained or cfgs.keys() < {row.name for row in trained}:
        lines = [[row.label, " ".join(row.overrides)] for row in trained]
        return DataFrame(lines, columns=["row", "overrides"])
    of = {row.label: leaves(OmegaConf.to_container(cfgs[row.name], resolve=True)) for row in trained}
    keys = dict.fromkeys(key for values in of.values() for key in values)
    texts = {key: [_text(values.get(key)) for values in of.values()] for key in keys}
    lines = [[key, *cells] for key, cells in texts.items() if len({*cells}) > 1]
    return DataFrame(lines, columns=["key", *of])


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
