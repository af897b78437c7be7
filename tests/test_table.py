"""A table of any runs says what their score files say, in three formats, and names the command that makes it again."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dti_repro.artifacts.files import write_json
from dti_repro.artifacts.manifest import Manifest, ManifestImage
from dti_repro.artifacts.scores import ScoreRow, write_scores
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from dti_repro.table import table

SUBJECTS = {"ann": (0.1, 0.3), "bob": (0.5, 0.7), "cid": (0.2, 0.2)}  # its scores at training seeds 42 and 43
GENERATION = "g0123456789"


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """A trained run of two seeds and one of plain words, both scored."""
    trained = tmp_path / "runs/toybox/ti_rescaled/abc"
    for concept, values in SUBJECTS.items():
        for seed, value in zip((42, 43), values, strict=True):
            save(trained / f"seed_{seed}" / concept, concept, {"text": value, "50%_image": 1.0})
        save(tmp_path / "runs/toybox/text_class" / concept, concept, {"text": 0.9})
    write_scores(trained / f"seed_42/ann/scores/{GENERATION}.mismatched.csv", [score("ann", "text", 9.0)])
    return [str(trained), str(tmp_path / "runs/toybox/text_class")]


def score(concept: str, metric: str, value: float, masked: bool = False) -> ScoreRow:
    return ScoreRow("p000_s0.png", "a {}", "a cat", 0, concept, metric, value, masked)


def save(folder: Path, concept: str, values: dict[str, float], identity: str = "x", masked: bool = False) -> None:
    image = ManifestImage("p000_s0.png", "a <x>", "a {}", "a cat", 0, (concept,))
    Manifest({"prompts": "simple_set"}, {}, (image,)).write(folder / f"images/{GENERATION}/manifest.json")
    csv = folder / f"scores/{GENERATION}.csv"
    write_scores(csv, [score(concept, metric, value, masked) for metric, value in values.items()])
    write_json(csv.with_suffix(".json"), {"metrics": {metric: {"identity": identity} for metric in values}})


def refusal(tmp_path: Path, runs: list[str], *more: str) -> str:
    cfg = compose("table", [f"runs=[{','.join(runs)}]", f"out={tmp_path}/out/t", *more])
    with pytest.raises(InputError) as error:
        table(cfg, "the command")
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_a_table_has_means_intervals_and_numbers_and_makes_itself_again(tmp_path: Path, runs: list[str]) -> None:
    command = [sys.executable, "-m", "dti_repro.table", f"runs=[{','.join(runs)}]", "labels=[TI_r,class]"]
    subprocess.run([*command, f"out={tmp_path}/out/t"], check=True, capture_output=True)
    markdown, latex = ((tmp_path / f"out/t.{suffix}").read_text() for suffix in ("md", "tex"))
    means = [np.mean(values) for values in SUBJECTS.values()]
    half = stats.t.ppf(0.975, 2) * stats.sem(means)
    row = next(line for line in markdown.splitlines() if line.startswith("| TI_r"))
    assert f"{np.mean(means):.3f} ± {half:.3f}" in row
    assert [cell.strip() for cell in row.split("|")[-5:-1]] == ["3", "2", "simple_set", GENERATION]
    assert rf"{np.mean(means):.3f} $\pm$ {half:.3f}" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"TI\_r", r"50\%\_image"))
    numbers = pd.read_csv(tmp_path / "out/t.csv").set_index("label")
    assert numbers["text"]["TI_r"] == pytest.approx(np.mean(means))
    assert numbers["text_high"]["TI_r"] == pytest.approx(np.mean(means) + half)
    assert list(numbers["text_subjects"]) == [3, 3]
    again = shlex.split(re.search("Made by `(.*?)`", markdown)[1])
    assert again[1:3] == ["-m", "dti_repro.table"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    subprocess.run([sys.executable, *again[1:], f"out={tmp_path}/out/t"], check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert f"% Made by {shlex.join(again)}" in latex


def test_scores_that_cannot_be_compared_are_not_put_into_one_table(tmp_path: Path, runs: list[str]) -> None:
    save(Path(runs[1]) / "ann", "ann", {"text": 0.9}, identity="other")
    assert re.match(r"text has other weights or settings in \S+ than in \S+: evaluate both", refusal(tmp_path, runs))
    save(Path(runs[1]) / "ann", "ann", {"text": 0.9}, masked=True)
    assert "text was computed with masks in one run" in refusal(tmp_path, runs)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["labels=[one]"], "labels=['one']: 2 are needed"),
        (["metrics=[nothing]"], "metrics: no run has nothing; there are "),
        (["generation=gffff"], "has no scores of generation gffff: evaluate it"),
        (["runs=[nowhere]"], "runs: there is no folder nowhere"),
        (["runs=[]"], "runs is []"),
    ],
)
def test_wrong_input_is_one_line(overrides: list[str], words: str, tmp_path: Path, runs: list[str]) -> None:
    assert words in refusal(tmp_path, runs, *overrides)


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_a_table_needs_a_name(out: str) -> None:
    cfg = compose("table", ["runs=nosuch", f"out={out}"])
    with pytest.raises(InputError, match="name the files, such as out=outputs/table"):
        table(cfg, "x")
