"""Train one subject with each method of an experiment, and show images, scores and norms."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.training_facts import final_norm
from dti_repro.config import CONF
from dti_repro.data.concept import Concept
from dti_repro.experiments.benchmark import means_of
from dti_repro.experiments.figures import save_lines
from dti_repro.experiments.grids import comparison
from dti_repro.experiments.runner import ExperimentRun, RowState, check_rows, draw_rows, learn, list_scores
from dti_repro.experiments.spec import parse_experiment
from dti_repro.launch.command import command
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import score


def demo(cfg: DictConfig) -> list[Path]:
    """Train, draw and score what is missing; returns the figures: the labelled grid and the norm by step."""
    name = HydraConfig.get().runtime.choices["experiment"]
    content = OmegaConf.to_container(cfg.experiment, resolve=True)
    experiment = parse_experiment(name, content, CONF / "experiment" / "searched.yaml")
    configs = {metric: metric_config(metric) for metric in experiment.metrics}
    plan = ExperimentRun(experiment, cfg.runs, tuple(cfg.setup), tuple(cfg.train), tuple(cfg.generate)).choose_concepts(
        1
    )
    check_rows(plan)
    (concept,) = plan.concepts.values()

    states = learn(plan, experiment.rows)
    draw_rows(plan, states)
    score(list_scores(plan, states), configs, accelerator=cfg.accelerator)

    grid = comparison(concept, states).save(Path(cfg.out) / f"{name}_grid.png")
    norms = _norms(concept, states, Path(cfg.out) / f"{name}_norms.png")
    _print_scores(states, experiment.metrics)
    print(f"grid: {grid}\nnorm by step: {norms}")
    return [grid, norms]


def _norms(concept: Concept, states: Sequence[RowState], path: Path) -> Path:
    lines = {state.spec.label: _norm_by_step(state.folders[0].log) for state in states}
    title = f"Norm of the learned vector of {concept.placeholder}"
    return save_lines(path, lines, x_label="training step", y_label="norm of the token vector", title=title, log_y=True)


def _norm_by_step(log: Path) -> tuple[list[float], list[float]]:
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["step"]) for row in rows], [float(row["norm"]) for row in rows]


def _print_scores(states: Sequence[RowState], metrics: Mapping[str, str]) -> None:
    """A line for each method: mean scores over the pictures, and the final norm."""
    from rich.console import Console
    from rich.table import Table

    table = Table("method", *metrics.values(), "norm")
    for state in states:
        means = means_of(state.files, metrics)
        scores = [f"{next(iter(means[metric].values())):.3f}" if metric in means else "" for metric in metrics]
        table.add_row(state.spec.label, *scores, f"{final_norm(state.folders):.3f}")
    Console().print(table)


@command("demo")
def main(cfg: DictConfig) -> None:
    demo(cfg)


if __name__ == "__main__":
    main()
