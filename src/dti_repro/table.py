"""Tabulate the scores of any runs: Markdown, CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.scores import score_groups
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.launch.command import command
from dti_repro.launch.command_line import running_command


def table(cfg: DictConfig, made_by: str) -> list[Path]:
    """Write the table of evaluated runs, print it, and return its files. made_by: the command that it names.

    InputError for a run without scores, for labels that do not fit, and for a metric that two runs were given by
    different weights or settings.
    """
    validate("table", cfg)
    values = OmegaConf.to_container(cfg)
    runs = [values["runs"]] if isinstance(values["runs"], str) else values["runs"]
    if Path(values["out"]).name in ("", ".."):
        raise InputError(f"out={values['out']}: name the files, such as out=outputs/table for table.md, .csv and .tex")
    labels = values["labels"]
    if labels is not None and len(labels) != len(runs):
        raise InputError(f"labels={labels}: {len(runs)} are needed, one for each of runs")
    groups = score_groups(list(map(Path, runs)), labels, values["generation"])
    from dti_repro.experiments.run_tables import write_table  # which loads pandas and scipy

    paths = write_table(Path(values["out"]), groups, values["metrics"], made_by)
    print(paths[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
    return paths


@command("table")
def main(cfg: DictConfig) -> None:
    table(cfg, running_command("table", "out"))


if __name__ == "__main__":
    main()
