"""Make the table of an experiment: train, generate and score what is missing.

The results are in <out>/<experiment>/: table.md, report.html with the images, and others. A finished experiment takes
seconds; with thousands of large images minutes, as each is read to see that it is the one that was scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.files import user_path
from dti_repro.artifacts.tracking import tracking
from dti_repro.config import validate
from dti_repro.experiments.configs import ExperimentRun, load_run, searched_file
from dti_repro.experiments.jobs import choose_rows, group_into_sweeps, with_dependencies
from dti_repro.experiments.paths import check_paths, write_paths
from dti_repro.experiments.spec import Experiment
from dti_repro.experiments.stages import RowResult, generate_rows, list_score_files, train_rows
from dti_repro.experiments.training_columns import start_norms
from dti_repro.launch.command import command
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.sweep import as_choices
from dti_repro.metrics.evaluator import score


def stages(line: CommandLine) -> list[CommandLine]:
    """Return the commands that a command with a launcher but without -m stands for: sweeps over the rows, then the
    table in this process. InputError for a wrong experiment, before the first job is sent."""
    if line.multirun or line.value("hydra/launcher") is None or line.flags:
        return [line]
    table = line.without("hydra/launcher", "hydra.launcher", "hydra.sweep.dir")
    cfg = table.compose()
    validate("benchmark", cfg)
    run = load_run(cfg, cfg.hydra.runtime.choices["experiment"], cfg.subjects)
    run.check()
    sweeps = group_into_sweeps(run, choose_rows(run.experiment, cfg.rows))
    jobs = replace(line.without("rows"), multirun=True)
    return [*(jobs.adding(f"rows={as_choices(sweep)}") for sweep in sweeps), table]


@command("benchmark", stages)
def main(cfg: DictConfig) -> int:
    """Run an experiment and write its table; with `rows`, compute only these and write no table.

    Return how many trainings, images and columns of scores were missing. InputError before anything runs, where
    possible.
    """
    run = load_run(cfg, HydraConfig.get().runtime.choices["experiment"], cfg.subjects)
    experiment = run.experiment
    metrics = run.metrics()
    chosen = choose_rows(experiment, cfg.rows)
    masks = None if cfg.masks is None else user_path(cfg.masks)
    run.check(masks)
    if experiment.paths is not None:
        check_paths(run)
    folder = Path(cfg.out) / experiment.name
    searched = _search_result(cfg, run, folder)

    clock = [time.time()]
    trained = train_rows(run, with_dependencies(experiment, chosen), cfg.accelerator)
    names = {row.name for row in chosen}
    results = [result for result in trained if result.spec.name in names]
    clock.append(time.time())
    generated = generate_rows(run, results)
    clock.append(time.time())
    computed = score(list_score_files(run, results), metrics, masks, cfg.accelerator, cfg.devices)
    for result in results:
        start_norms(run, result)  # in a job too: the process that writes the table loads no model
    clock.append(time.time())
    if cfg.rows is None:
        from dti_repro.experiments.figures import comparison, redraw  # pandas and scipy load with these
        from dti_repro.experiments.notes import table_command
        from dti_repro.experiments.page.write import write_page
        from dti_repro.experiments.report import tabulate, write_provenance, write_tables, write_words

        report = tabulate(run, results, table_command(), masks is not None, searched)
        write_tables(folder, report)
        write_words(folder, run, results)
        comparison(run, results).save(folder / "grid.png")
        write_provenance(folder, experiment, results, clock)
        write_page(folder, report, run, results)
        if experiment.paths is not None:
            write_paths(folder, run, results, cfg.accelerator)
        redraw(folder)
        _track(cfg, experiment, results, folder)
        print(f"{computed} columns of scores computed, the others existed: {folder / 'table.md'} and report.html")
    return sum(result.trained for result in trained) + generated + computed


def _search_result(cfg: DictConfig, run: ExperimentRun, folder: Path) -> Path:
    """Return the yaml that a search writes. A search that was changed on the command line, to try it, leaves the one
    that tables read as it is."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    has_own_keys = any(override.lstrip("+~").startswith("experiment.") for override in typed)
    is_a_try = run.experiment.search and cfg.searched is None and (has_own_keys or run.is_changed())
    return folder / "searched.yaml" if is_a_try else searched_file(cfg)


def _track(cfg: DictConfig, experiment: Experiment, results: Sequence[RowResult], folder: Path) -> None:
    """Show the means of the table, the table and its pictures in the logger."""
    with tracking(cfg, "benchmark", experiment.name) as tracker:
        rows = []
        for result in results if tracker.logger else ():
            means = result.means(experiment.metrics)
            of = {metric: fmean(by_subject.values()) for metric, by_subject in means.items()}
            tracker.numbers({f"{result.spec.name}/{Path(metric).stem}": mean for metric, mean in of.items()})
            rows.append([result.spec.label, *map(of.get, experiment.metrics)])
        text = (folder / "table.md").read_text(encoding="utf-8")
        tracker.table("table", ["row", *experiment.metrics.values()], rows, text)
        tracker.images("pictures", {path.stem: path for path in sorted(folder.glob("*.png"))})


if __name__ == "__main__":
    main()
