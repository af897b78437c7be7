"""Write the tables and the page of an experiment again from what is on disk; nothing is trained, drawn or scored.

The page is <out>/<experiment>/report.html: pictures, the image-text plane, tables, curves. Where no runs are, it is
made of the results in that folder.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.data.masks import check_masks
from dti_repro.errors import InputError
from dti_repro.experiments.runner import check_rows, load_run
from dti_repro.launch.command import command


def report(cfg: DictConfig) -> Path:
    """Return the page. InputError where neither whole runs nor a result are there."""
    run = load_run(cfg, HydraConfig.get().runtime.choices["experiment"], cfg.subjects)
    check_rows(run)
    masks = None if cfg.masks is None else Path(cfg.masks)
    for concept in run.concepts.values() if masks else ():
        check_masks(masks, concept.name, concept.images)
    from dti_repro.experiments.figures import comparison  # pandas and scipy load with these
    from dti_repro.experiments.notes import table_command
    from dti_repro.experiments.on_disk import agreeing, rows_on_disk, stored_report
    from dti_repro.experiments.page.write import write_page
    from dti_repro.experiments.report import tabulate, write_tables

    folder = Path(cfg.out) / run.experiment.name
    results = rows_on_disk(run, masks)
    missing = [row.label for row in run.experiment.rows if row.name not in {r.spec.name for r in results}]
    if not missing:
        found = tabulate(run, results, table_command(), masks is not None, None)
        comparison(run, results).save(folder / "grid.png")
        source = "the runs"
    elif (folder / "table.csv").is_file():
        found = stored_report(folder, run)
        results = agreeing(results, found)
        source = f"the result in {folder}, as the runs of {len(missing)} rows are not here"
    else:
        raise InputError(
            f"{folder} has no result, and {len(missing)} rows have no whole runs in {cfg.runs} ({', '.join(missing)}): "
            f"run it first: {table_command()}"
        )
    write_tables(folder, found)
    page = write_page(folder, found, run, results)
    drawn = sum(bool(result.image_folders) for result in results)
    print(f"{page}: {len(found.rows)} rows, {drawn} with pictures, from {source}")
    return page


@command("report")
def main(cfg: DictConfig) -> None:
    report(cfg)


if __name__ == "__main__":
    main()
