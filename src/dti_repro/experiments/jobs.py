"""Which rows of an experiment are computed, and which of them one job computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.training.runs import run_folder, source_config


def choose_rows(experiment: Experiment, names: Any) -> list[RowSpec]:
    """Return the rows of these names in the experiment's order; all for None. InputError for an unknown name, and for
    none."""
    known = [row.name for row in experiment.rows]
    wanted = known if names is None else [names] if isinstance(names, str) else names
    if not isinstance(wanted, Sequence) or not wanted or any(name not in known for name in wanted):
        raise InputError(f"rows={names}: give names of rows of experiment '{experiment.name}': {', '.join(known)}")
    return [row for row in experiment.rows if row.name in wanted]


def with_dependencies(experiment: Experiment, rows: Sequence[RowSpec]) -> list[RowSpec]:
    """Return the rows and those whose gradients their kappas are relative to, in the experiment's order."""
    names = {row.name for row in rows}
    for row in reversed(experiment.rows):
        if row.name in names and row.kappa is not None:
            names.add(row.kappa.of)
    return [row for row in experiment.rows if row.name in names]


def group_into_sweeps(run: ExperimentRun, rows: Sequence[RowSpec]) -> list[list[list[str]]]:
    """Return sweeps that run one after the other, each of jobs that run at once, each of row names.

    Rows that write the same folder are one job (a method that transforms another's vectors writes that one's too). A
    row whose kappa is relative to another row's gradient is in a later sweep than that row.
    """
    jobs: list[tuple[set[str], list[str]]] = []  # what a job writes, and its rows
    sweep_of: dict[str, int] = {}
    for row in rows:
        sweep_of[row.name] = sweep_of.get(row.kappa.of, -1) + 1 if row.kappa and row.bound is None else 0
        outputs = _outputs(run, row)
        same = [job for job in jobs if job[0] & outputs]
        merged = [*(name for _, names in same for name in names), row.name]
        jobs = [*(job for job in jobs if job not in same), (outputs.union(*(written for written, _ in same)), merged)]
    # Only rows without a kappa are merged, and they are all of the first sweep.
    sweeps = range(max(sweep_of.values()) + 1)
    return [[names for _, names in jobs if sweep_of[names[0]] == number] for number in sweeps]


def _outputs(run: ExperimentRun, row: RowSpec) -> set[str]:
    """Return what names the folders that a row writes."""
    if row.bound is not None:
        return {row.bound}
    if row.kappa is not None:
        return {row.name}  # its kappa, and with it its folder, is known after another row's training
    configs = run.train_configs(row)
    configs += [source_config(cfg) for cfg in configs if "source" in cfg.method]
    return {str(run_folder(config).path) for config in configs}
