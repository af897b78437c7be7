"""Write the tables and the page of an experiment again, without computing anything.

The page is <out>/<experiment>/report.html: pictures, the image-text plane, tables, curves. Where no runs are, it is
made of the results in that folder.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dti_repro.artifacts.files import user_path
from dti_repro.errors import InputError
from dti_repro.experiments.configs import load_run, parse_run
from dti_repro.launch.command import command

LISTED = 4  # rows in a message


@command("report")
def main(cfg: DictConfig) -> None:
    """Write tables and page. InputError where neither whole runs nor a result are there."""
    name = HydraConfig.get().runtime.choices["experiment"]
    run = parse_run(cfg, name)
    run.generate_config()
    run.trainings()  # a wrong override is said before what is missing
    from dti_repro.experiments.figures import comparison  # pandas and scipy load with these
    from dti_repro.experiments.notes import table_command
    from dti_repro.experiments.on_disk import agreeing, rows_on_disk, stored_report
    from dti_repro.experiments.page.write import write_page
    from dti_repro.experiments.report import tabulate, update_provenance, write_tables, write_words

    folder, masks = Path(cfg.out) / name, None if cfg.masks is None else user_path(cfg.masks)
    try:
        run = load_run(cfg, name, cfg.subjects)
        results = rows_on_disk(run, masks)
        lost = [row.name for row in run.experiment.rows if row.name not in {r.spec.name for r in results}]
        named = ", ".join(lost[:LISTED]) + (f" and {len(lost) - LISTED} more" if len(lost) > LISTED else "")
        whole = f"{len(lost)} rows have no whole runs in {cfg.runs} ({named}), which dti benchmark completes"
        missing = whole if lost else ""
    except InputError as error:  # in a clone there may be no photos and no weights either
        results, missing = [], str(error)
    if not missing:
        found = tabulate(run, results, table_command(), masks is not None, None)
        comparison(run, results).save(folder / "grid.png")
    elif (folder / "table.csv").is_file():
        found = stored_report(folder, run, table_command())
        results = agreeing(results, found)
    else:
        raise InputError(f"{missing}, and {folder} has no result; to make it: {table_command()}")
    write_tables(folder, found)
    if not missing:
        write_words(folder, run, results)
        update_provenance(folder, run.experiment, results)
    page = write_page(folder, found, run, results)
    drawn = sum(bool(result.image_folders) for result in results)
    source = f"from the tables in {folder}: {missing}" if missing else "from the runs"
    print(f"{page}: {len(found.rows)} rows, {drawn} with pictures, {source}")


if __name__ == "__main__":
    main()
