"""Train one subject with each method of an experiment, and show images, scores and norms."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import final_norm
from dti_repro.experiments.figures import comparison, save_norms
from dti_repro.experiments.runner import (
    RowResult,
    check_rows,
    generate_rows,
    list_score_files,
    load_run,
    means_of,
    train_rows,
)
from dti_repro.launch.command import command
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import score


def demo(cfg: DictConfig) -> list[Path]:
    """Train, generate and score what is missing; return the figures: the labelled grid and the norms by step."""
    name = HydraConfig.get().runtime.choices["experiment"]
    run = load_run(cfg, name, 1)
    experiment = run.experiment
    metrics = {metric: metric_config(metric) for metric in experiment.metrics}
    check_rows(run)

    results = train_rows(run, experiment.rows)
    generate_rows(run, results)
    score(list_score_files(run, results), metrics, accelerator=cfg.accelerator)

    grid = comparison(run, results).save(Path(cfg.out) / f"{name}_grid.png")
    (concept,) = run.concepts.values()
    norms = {result.spec.label: _norm_by_step(result.folders[0].log) for result in results}
    title = f"Norm of the learned vector of {concept.placeholder}"
    plot = save_norms(Path(cfg.out) / f"{name}_norms.png", norms, title)
    _print_scores(results, experiment.metrics)
    print(f"grid: {grid}\nnorm by step: {plot}")
    return [grid, plot]


def _norm_by_step(log: Path) -> tuple[list[float], list[float]]:
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["step"]) for row in rows], [float(row["norm"]) for row in rows]


def _print_scores(results: Sequence[RowResult], metrics: Mapping[str, str]) -> None:
    """Print a line for each method: mean scores over the images, and the final norm."""
    from rich.console import Console
    from rich.table import Table

    table = Table("method", *metrics.values(), "norm")
    for result in results:
        means = means_of(result.score_files, metrics)
        scores = [f"{next(iter(means[metric].values())):.3f}" if metric in means else "" for metric in metrics]
        table.add_row(result.spec.label, *scores, f"{final_norm(result.folders):.3f}")
    Console().print(table)


@command("demo")
def main(cfg: DictConfig) -> None:
    demo(cfg)


if __name__ == "__main__":
    main()
