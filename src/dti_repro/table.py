"""Tabulate the scores of any runs: Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_json, write_file
from dti_repro.artifacts.scores import ScoreGroup, read_scores, score_groups, subject_means
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.experiments.markdown import markdown
from dti_repro.launch.command import command
from dti_repro.launch.command_line import running_command

EXTRAS = ("subjects", "training seeds", "prompts", "generation")
CELLS = (
    "Cells: mean over subjects ± half of its 95% t interval. The images of all training seeds and image seeds of a "
    "subject are averaged first."
)


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
    paths = write_table(Path(values["out"]), groups, values["metrics"], made_by)
    print(paths[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
    return paths


def write_table(out: Path, groups: Sequence[ScoreGroup], metrics: Sequence[str] | None, made_by: str) -> list[Path]:
    """Write <out>.md, <out>.csv and <out>.tex, and return their paths; equal inputs give equal bytes.

    metrics: the columns; None: all that are found. made_by: the command that makes the table again. InputError for a
    metric that no run has, and for one whose scores cannot be compared.
    """
    from dti_repro.experiments.tables import Row, latex, means_table, numbers_table, write_csv  # pandas loads with it

    rows, found = [], {}
    for number, group in enumerate(groups):
        scores = [score for file in group.files for score in read_scores(file)]
        for score in scores:
            if metrics is not None and score.metric not in metrics:
                continue
            if found.setdefault(score.metric, score.masked) != score.masked:
                raise InputError(f"{score.metric} was computed with masks in one run, without in another: do all alike")
        means = subject_means(scores)
        subjects = [len(by_subject) for by_subject in means.values()] or [0]
        span = " to ".join(map(str, sorted({min(subjects), max(subjects)})))  # 12, or 11 to 12 where metrics differ
        cells = (span, str(group.seeds or ""), group.prompts, group.generation)
        rows.append(Row(f"r{number}", group.label, means, dict(zip(EXTRAS, cells, strict=True))))
    columns = list(found) if metrics is None else list(metrics)
    if missing := [metric for metric in columns if metric not in found]:
        known = sorted({metric for row in rows for metric in row.scores})
        raise InputError(f"metrics: no run has {missing[0]}; there are {', '.join(known)}")
    _check_comparable(groups, columns)
    titles = {metric: f"{metric} (masked)" if found[metric] else metric for metric in columns}
    shown = means_table(rows, titles, EXTRAS)
    paths = [out.with_name(f"{out.name}{suffix}") for suffix in (".md", ".csv", ".tex")]
    text = markdown([shown.columns, *shown.values])
    write_file(paths[0], f"Made by `{made_by}`. {CELLS}\n\n{text}")
    write_csv(paths[1], numbers_table(rows, columns, EXTRAS).drop(columns="row"))
    write_file(paths[2], latex(shown, "l" + "c" * len(titles) + "l" * len(EXTRAS), f"{made_by}\n{CELLS}"))
    return paths


def _check_comparable(groups: Sequence[ScoreGroup], metrics: Sequence[str]) -> None:
    """Raise InputError if a metric was computed with other weights or settings in one file than in another."""
    first: dict[str, tuple[str, Path]] = {}
    for file in (file for group in groups for file in group.files):
        records = read_json(file.with_suffix(".json"), "evaluate again").get("metrics", {})
        for metric in (metric for metric in metrics if metric in records):
            identity = str(records[metric].get("identity"))
            before, where = first.setdefault(metric, (identity, file))
            if identity != before:
                raise InputError(
                    f"{metric} has other weights or settings in {file} than in {where}: evaluate both runs alike, or "
                    "leave it out with metrics=[...]"
                )


@command("table")
def main(cfg: DictConfig) -> None:
    table(cfg, running_command("table", "out"))


if __name__ == "__main__":
    main()
