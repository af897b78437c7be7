"""Train one subject with each method of an experiment, and show images, scores and norms."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.run_dir import final_norm, log_column
from dti_repro.errors import InputError
from dti_repro.experiments.configs import load_run
from dti_repro.experiments.figures import comparison, save_norms
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.stages import generate_rows, list_score_files, train_rows
from dti_repro.experiments.tables import Row, means_table
from dti_repro.launch.command import command
from dti_repro.metrics.evaluator import score


@command("demo")
def main(cfg: DictConfig) -> None:
    """Train, generate and score what is missing; draw the labelled grid and the norms by step."""
    name = HydraConfig.get().runtime.choices["experiment"]
    run = load_run(cfg, name, 1)
    metrics = run.metrics()
    run.check()
    if other := [row.name for row in run.experiment.rows if row.bound or "source" in run.train_configs(row)[0].method]:
        raise InputError(f"the demo shows trainings, and row '{other[0]}' of '{name}' has none: use dti benchmark")
    results = train_rows(run, run.experiment.rows)
    generate_rows(run, results)
    score(list_score_files(run, results), metrics, accelerator=cfg.accelerator)

    grid = comparison(run, results).save(Path(cfg.out) / f"{name}_grid.png")
    (concept,) = run.concepts.values()
    norms = {result.spec.label: log_column(result.folders[0].log, "norm") for result in results}
    plot = Path(cfg.out) / f"{name}_norms"
    save_norms(plot, norms, f"Norm of the learned vector of {concept.placeholder}")
    rows = [Row(r.spec.name, r.spec.label, r.means(metrics), {"norm": f"{final_norm(r.folders):.3f}"}) for r in results]
    table = means_table(rows, run.experiment.metrics, ["norm"])
    print(markdown([table.columns, *table.values]))
    print(f"grid: {grid}\nnorm by step: {plot}.png")


if __name__ == "__main__":
    main()
