"""Train one subject with each method of an experiment, and show images, scores and norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import final_norm, log_column
from dti_repro.experiments.configs import load_run
from dti_repro.experiments.figures import comparison, save_norms
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.stages import RowResult, generate_rows, list_score_files, train_rows
from dti_repro.launch.command import command
from dti_repro.metrics.evaluator import score


def demo(cfg: DictConfig) -> list[Path]:
    """Train, generate and score what is missing; return the figures: the labelled grid and the norms by step."""
    name = HydraConfig.get().runtime.choices["experiment"]
    run = load_run(cfg, name, 1)
    metrics = run.metrics()
    run.check()
    results = train_rows(run, run.experiment.rows)
    generate_rows(run, results)
    score(list_score_files(run, results), metrics, accelerator=cfg.accelerator)

    grid = comparison(run, results).save(Path(cfg.out) / f"{name}_grid.png")
    (concept,) = run.concepts.values()
    norms = {result.spec.label: log_column(result.folders[0].log, "norm") for result in results}
    plot = Path(cfg.out) / f"{name}_norms"
    save_norms(plot, norms, f"Norm of the learned vector of {concept.placeholder}")
    print(_scores(results, run.experiment.metrics))
    print(f"grid: {grid}\nnorm by step: {plot}.png")
    return [grid, plot.with_suffix(".png")]


def _scores(results: Sequence[RowResult], metrics: Mapping[str, str]) -> str:
    """Return a table with a line for each method: mean scores over the images, and the final norm."""
    lines = [["method", *metrics.values(), "norm"]]
    for result in results:
        means = {metric: fmean(of.values()) for metric, of in result.means(metrics).items()}
        scores = [f"{means[metric]:.3f}" if metric in means else "" for metric in metrics]
        lines.append([result.spec.label, *scores, f"{final_norm(result.folders):.3f}"])
    return markdown(lines)


@command("demo")
def main(cfg: DictConfig) -> None:
    demo(cfg)


if __name__ == "__main__":
    main()
