"""One command makes a table: everything is trained, generated, scored and compared; a second one computes nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dti_repro.artifacts.image_grid import CELL
from tests.e2e.tiny_benchmark import lines, run


@pytest.fixture(scope="module")
def table(world: Path) -> Path:
    result = run(world, "tiny")
    assert result.returncode == 0, result.stderr
    return world / "out" / "tiny"


def test_the_table_has_every_row_with_all_its_columns(world: Path, table: Path) -> None:
    rows = {row["row"]: row for row in lines(table / "table.csv")}
    assert list(rows) == ["class", "description", "references", "ti", "ti_rescaled", "dti"]
    image, text = str(world / "image.yaml"), str(world / "text.yaml")
    for name, row in rows.items():
        assert row[f"{image}_subjects"] == "2"
        assert row[f"{text}_subjects"] == ("0" if name == "references" else "2")
    assert rows["ti"]["published image"] == "0.561"
    assert float(rows["ti"]["on noise"]) > float(rows["ti"]["at start"])
    assert rows["dti"]["on noise"] == ""
    assert float(rows["dti"]["norm"]) == pytest.approx(float(rows["ti_rescaled"]["norm"]), rel=0.01)
    assert float(rows["dti"]["gradient"]) > 0
    assert rows["dti"]["kappa"] == "0.0001"
    assert float(rows["dti"]["minutes"]) >= 0


@pytest.mark.slow
def test_the_table_says_whether_references_were_masked(world: Path, table: Path) -> None:
    """Masks are checked before anything is trained; with them, only scores are computed again."""
    assert "with references as they are" in (table / "table.md").read_text()
    shutil.copytree(world / "runs", world / "runs_masked")
    masks = world / "masks"
    refused = run(world, "tiny", into="_masked", overrides=(f"masks={masks}",))
    assert refused.returncode == 2
    assert "rex have none" in refused.stderr
    assert refused.stderr.count("\n") == 1
    for photo in sorted((world / "subjects").glob("*/*.png")):
        with Image.open(photo) as image:
            mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        (masks / photo.parent.name).mkdir(parents=True, exist_ok=True)
        mask.save(masks / photo.parent.name / photo.name)
    result = run(world, "tiny", into="_masked", overrides=(f"masks={masks}",))
    assert result.returncode == 0, result.stderr
    assert "train " not in result.stdout
    assert "generate:" not in result.stdout
    assert "with references black outside of their masks" in (world / "out_masked/tiny/table.md").read_text()
    assert (world / "out_masked/tiny/scores.csv").read_text() != (table / "scores.csv").read_text()


def test_the_report_names_subjects_prompts_and_verdicts(table: Path) -> None:
    text = (table / "table.md").read_text()
    assert "2 subjects (rex, tom), 2 prompts (`prompts`), 1 training seed (42), 2 image seeds" in text
    assert "Paired differences from DTI" in text
    assert f"Made by `python -m dti_repro.benchmark --config-dir={table.parents[1]}/conf experiment=tiny " in text
    assert f" searched={table.parents[1]}/searched.yaml`" in text  # whatever was given, but where results lie
    assert "| DTI > TI | me     | text" in text
    assert "| too few subjects |" in text
    assert Image.open(table / "front.png").width > 300
    assert Image.open(table / "grid.png").height > (1 + 5) * CELL  # its references, and the five rows with images
    page = (table / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert [subject["names"] for subject in data["subjects"]] == [["rex"], ["tom"]]
    assert data["prompts"] == ["a {} on a beach", "a {} in the sky"]
    assert len(data["pictures"]) == 2 * 2 * 2 * 5  # subjects, prompts, seeds, rows but the photos'
    assert all(None not in picture[4] for picture in data["pictures"]), "every picture has its scores"
    assert all(cell in page for cell in (">image</th>", ">DTI</th>", "Paired differences from DTI"))


def test_report_writes_a_result_again_without_computing(world: Path, table: Path) -> None:
    """From the runs it is the same to the byte; without runs it is made of the stored tables, which stay the same."""
    before = {path.name: path.read_bytes() for path in table.iterdir()}
    for path in (table / "table.md", table / "report.html"):
        path.unlink()
    again = run(world, "tiny", "-X", "importtime", command="report")
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in table.iterdir()} == before
    assert "torch" not in {line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines()}
    shutil.copytree(table, world / "out_clone" / "tiny")
    (world / "runs_clone").mkdir()
    clone = run(world, "tiny", into="_clone", command="report")
    assert clone.returncode == 0, clone.stderr
    after = {path.name: path.read_bytes() for path in (world / "out_clone" / "tiny").iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"report.html"}
    nothing = run(world, "tiny", into="_nothing", command="report")
    assert nothing.returncode == 2
    assert nothing.stderr.startswith(f"error: 6 rows have no whole runs in {world}/runs_nothing (class, description, ")
    assert nothing.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_logger_shows_the_table_and_its_pictures_and_changes_nothing(world: Path, table: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    before = (table / "table.md").read_bytes()
    result = run(world, "tiny", overrides=("logger=tensorboard",))
    assert result.returncode == 0, result.stderr
    assert (table / "table.md").read_bytes() == before  # its command neither
    events = accumulator.EventAccumulator(str(world / "runs/.tensorboard/benchmark_tiny"))
    events.Reload()
    assert events.Tags()["images"] == ["pictures/front", "pictures/grid"]
    means = {row["row"]: float(row[str(world / "image.yaml")]) for row in lines(table / "table.csv")}
    assert events.Scalars("dti/image")[0].value == pytest.approx(means["dti"], rel=1e-5)
    shown = events.Tensors("table/text_summary")[0].tensor_proto.string_val[0]
    assert shown == before


@pytest.mark.slow
def test_a_table_of_several_training_seeds_is_the_mean_over_them(world: Path, table: Path) -> None:
    """The runs of one seed are used again, and `hydra/launcher` makes jobs of the rows as before."""
    seeds = ("+experiment.training_seeds=[42,43]", f"out={world}/out_seeds", "hydra/launcher=basic")
    result = run(world, "tiny", overrides=seeds)
    assert result.returncode == 0, result.stderr
    alone = run(world, "tiny", overrides=("train=[seed=43]", f"out={world}/out_other"))
    other = (world / "out_other" / "tiny" / "table.md").read_text(encoding="utf-8")
    assert f"experiment=tiny searched={world}/searched.yaml 'train=[\"seed=43\"]'`. 2 subjects" in other
    assert "0 columns of scores computed" in alone.stdout
    assert "generate:" not in alone.stdout

    def means(folder: Path) -> dict[tuple[str, ...], float]:
        return {(r["row"], r["concept"], r["metric"]): float(r["mean"]) for r in lines(folder / "scores.csv")}

    one, two = means(table), means(world / "out_other" / "tiny")
    both = {key: pytest.approx((one[key] + two[key]) / 2) for key in one}
    assert means(world / "out_seeds" / "tiny") == both
    assert one != two
    text = (world / "out_seeds" / "tiny" / "table.md").read_text()
    assert "2 training seeds (42, 43), 2 image seeds" in text


def test_a_second_call_computes_nothing_and_says_the_same(world: Path, table: Path) -> None:
    before = {path.name: path.read_bytes() for path in table.iterdir()}
    result = run(world, "tiny", "-X", "importtime")
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in table.iterdir()} == before
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "torch" not in imported


def timeless(table: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "minutes"} for row in lines(table / "table.csv")]


@pytest.mark.slow
def test_rows_as_jobs_of_a_launcher_make_the_same_table(world: Path, table: Path) -> None:
    result = run(world, "tiny", into="_jobs", overrides=("hydra/launcher=basic",))
    assert result.returncode == 0, result.stderr
    folder = world / "out_jobs" / "tiny"
    assert timeless(folder) == timeless(table)
    for name in ("scores.csv", "front.png", "grid.png"):
        assert (folder / name).read_bytes() == (table / name).read_bytes()
    assert "5 jobs: 5 ran" in result.stdout  # ti and ti_rescaled, which transforms its vectors, are one
    assert "0 columns of scores computed, the others existed" in result.stdout
    assert json.loads((folder / "provenance.json").read_text())["machines"]
    again = run(world, "tiny", "-X", "importtime", into="_jobs", overrides=("hydra/launcher=basic",))
    assert "5 jobs: 5 finished before" in again.stdout
    assert "torch" not in {line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines()}


def test_an_unknown_row_is_named_before_a_job_is_sent(world: Path) -> None:
    result = run(world, "tiny", overrides=("hydra/launcher=basic", "rows=[ti,tii]"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: rows=['ti', 'tii']: give names of rows of experiment 'tiny': class, ")


def test_a_wrong_experiment_is_one_clear_line(world: Path) -> None:
    result = run(world, "wrong")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "row 'bad': method 'ti' has no key 'method.prior.kappa'" in result.stderr


def test_a_label_that_no_metric_can_read_is_found_before_a_training(world: Path) -> None:
    prompts = world / "moon.yaml"
    prompts.write_text('prompts: [{template: "a {} up there", expect: {background: moon}}]')
    result = run(world, "tiny", into="_moon", overrides=(f"generate=[prompts={prompts}]",))
    assert result.returncode == 2
    assert result.stderr.endswith("the attribute reader has no background 'moon': correct `expect` in the prompt set\n")
    assert not (world / "runs_moon").exists()
