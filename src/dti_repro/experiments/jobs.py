"""An experiment's rows as the jobs of a sweep: which rows can be computed at once, and which wait for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dti_repro.errors import InputError
from dti_repro.experiments.runner import ExperimentRun
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.training.runs import run_folder, source_config


def choose_rows(experiment: Experiment, names: Any) -> list[RowSpec]:
    """The rows of these names, in the experiment's order; all for None. InputError for an unknown one, and for none."""
    if names is None:
        return list(experiment.rows)
    there = [row.name for row in experiment.rows]
    wanted = [names] if isinstance(names, str | int) else names
    if not isinstance(wanted, Sequence) or not wanted:
        raise InputError(f"rows is {names}: a list of rows is needed, or null for all (the rows: {', '.join(there)})")
    wanted = [str(name) for name in wanted]
    if unknown := [name for name in wanted if name not in there]:
        raise InputError(
            f"rows: experiment '{experiment.name}' has no row '{unknown[0]}' (its rows: {', '.join(there)})"
        )
    return [row for row in experiment.rows if row.name in wanted]


def with_those_they_need(experiment: Experiment, rows: Sequence[RowSpec]) -> list[RowSpec]:
    """The rows and those whose gradients their kappas are shares of, in the experiment's order."""
    names = {row.name for row in rows}
    for row in reversed(experiment.rows):
        if row.name in names and row.kappa is not None:
            names.add(row.kappa.of)
    return [row for row in experiment.rows if row.name in names]


def deal_rows(plan: ExperimentRun, rows: Sequence[RowSpec]) -> list[list[list[str]]]:
    """Sweeps that run one after the other, each of jobs that run at once, each of rows by name.

    Rows that write the same folder are one job (a method that transforms another's vectors writes that one's too), and
    a row whose kappa is a share of another's gradient comes in a later sweep than that one.
    """
    writes = {row.name: _written(plan, row) for row in rows}
    jobs: list[list[RowSpec]] = []
    for row in rows:
        same = [job for job in jobs if any(writes[other.name] & writes[row.name] for other in job)]
        jobs = [*(job for job in jobs if job not in same), [*(other for job in same for other in job), row]]
    sweeps: list[list[list[str]]] = []
    turns: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: max(map(rows.index, job))):
        own = {row.name for row in job}
        turn = max((turns.get(row.kappa.of, -1) + 1 for row in job if row.kappa and row.kappa.of not in own), default=0)
        turns |= dict.fromkeys(own, turn)
        sweeps += [[] for _ in range(turn + 1 - len(sweeps))]
        sweeps[turn].append([row.name for row in job])
    return sweeps


def _written(plan: ExperimentRun, row: RowSpec) -> set[str]:
    if row.bound is not None:
        return {row.bound}
    if row.kappa is not None:
        return {row.name}  # its kappa, and with it its folder, is known after another row's training
    configs = plan.train_configs(row)
    configs += [source_config(cfg) for cfg in configs if "source" in cfg.method]
    return {str(run_folder(config).path) for config in configs}
