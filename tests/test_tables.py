"""Tables say what the score files say: means over subjects, paired differences, verdicts, and nothing is
lost on the way."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from dti_repro.artifacts.files import write_json
from dti_repro.artifacts.provenance import minutes_per_concept
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.artifacts.scores import ScoreRow, read_scores, subject_means, write_scores
from dti_repro.config import CONF
from dti_repro.errors import InputError
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.notes import DEVIATIONS
from dti_repro.experiments.report import make_report, write_tables
from dti_repro.experiments.spec import Claim, Experiment, RowSpec
from dti_repro.experiments.tables import Row, claims_table, compare, differences_table, means_table, numbers_table

SUBJECTS = [f"s{i:02d}" for i in range(12)]


def row(name: str, mean: float, spread: float = 0.01, seed: int = 0) -> Row:
    noise = np.random.default_rng(seed).normal(0, spread, len(SUBJECTS))
    return Row(name, name.upper(), {"text": dict(zip(SUBJECTS, mean + noise, strict=True))}, {"norm": "0.32"})


def test_a_score_file_gives_back_the_same_floats(tmp_path: Path) -> None:
    row = ScoreRow("p0_s0.png", 'a {}, "red"', 'a dog, "red"', 0, "rex", "clip_t", 0.1 + 0.2)
    rows = [row, replace(row, metric="dino", masked=True)]
    write_scores(tmp_path / "a.csv", rows)
    assert read_scores(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        "file,template,text,seed,concept,metric,value,masked\nx,y,z,0,c,m,one,0\n",
        "file,template,text,seed,concept,metric,value,masked\nx,y,z,0,c,m,0.5,no\n",
    ],
)
def test_a_damaged_score_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.csv").write_text(content)
    with pytest.raises(InputError, match=r"broken\.csv"):
        read_scores(tmp_path / "broken.csv")


def test_subject_means_count_every_image_once_and_no_batch_twice() -> None:
    rows = [ScoreRow("f", "t", "t", i, "rex", "m", v) for i, v in enumerate([0.0, 0.0, 0.9])]
    assert subject_means([*rows, ScoreRow("f", "t", "t", 0, "tom", "m", 1.0)]) == {"m": {"rex": 0.3, "tom": 1.0}}


def test_a_pack_s_minutes_are_shared_by_all_its_concepts_also_in_a_table_of_some(tmp_path: Path) -> None:
    began, later = "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"
    for name, start in {"cat": began, "dog": began, "mug": began, "car": later}.items():
        write_json(tmp_path / name / "provenance.json", {"host": "h", "began": start, "seconds": 180.0})
    folders = [ConceptFolder(tmp_path / name) for name in ("cat", "car")]
    assert minutes_per_concept(folders[:1]) == 1
    assert minutes_per_concept(folders) == 2
    resumed = {"host": "h", "began": later, "seconds": 6.0, "resumed_from_step": 390}
    write_json(tmp_path / "car" / "provenance.json", resumed)  # the first 390 steps are not in it
    assert minutes_per_concept(folders) is None


def test_a_cell_is_the_mean_and_the_t_interval_over_subjects() -> None:
    ti = row("ti", 0.5, spread=0.1)
    values = list(ti.scores["text"].values())
    half = stats.t.ppf(0.975, 11) * stats.sem(values)
    few = [Row("one", "One", {"text": {"s00": 0.1}}), Row("none", "None", {})]
    table = means_table([ti, *few], {"text": "Text"}, ["norm"])
    assert list(table) == ["row", "Text", "norm"]
    cells = [["TI", f"{np.mean(values):.3f} ± {half:.3f}", "0.32"], ["One", "0.100", ""], ["None", "", ""]]
    assert table.values.tolist() == cells
    numbers = numbers_table([ti, *few], ["text"], ["norm"]).set_index("row")
    assert list(numbers) == ["label", "text", "text_low", "text_high", "text_subjects", "norm"]
    assert numbers["text"]["ti"] == np.mean(values)
    assert numbers["text_high"]["ti"] == pytest.approx(np.mean(values) + half)
    assert list(numbers["text_subjects"]) == [12, 1, 0]


def test_orderings_are_decided_by_the_paired_interval() -> None:
    rows = {r.name: r for r in (row("dti", 0.6, seed=1), row("ti", 0.5, seed=2), row("cross", 0.6, spread=0.1, seed=3))}
    claims = [
        Claim("dti", "ti", "DTI > TI", "the paper", ("text",)),
        Claim("ti", "dti", "TI > DTI", "me", ("text",)),
        Claim("dti", "cross", "DTI > CrossInit", "me", ("text",)),
        Claim("dti", "one", "DTI > one", "me", ("text",)),
        Claim("dti", "photos", "DTI > photos", "me", ("text",)),
    ]
    rows |= {"one": Row("one", "One", {"text": {"s00": 0.1}}), "photos": Row("photos", "Photos", {})}
    table = claims_table(claims, rows, {"text": "Text"})
    assert list(table["verdict"]) == ["holds", "does not", "undecided", "too few subjects", "not measured"]
    assert list(table["source"]) == ["the paper", "me", "me", "me", "me"]
    assert "nan" not in table.to_csv()


def test_a_claims_p_values_are_corrected_over_its_own_metrics() -> None:
    rows = {r.name: r for r in (row("dti", 0.6, seed=1), row("ti", 0.5, seed=2))}
    rows = {n: Row(n, r.label, {"text": r.scores["text"], "more": r.scores["text"]}) for n, r in rows.items()}
    claims = [
        Claim("dti", "ti", "DTI > TI", "me", ("text", "more")),
        Claim("dti", "ti", "alone", "me", ("text",)),
    ]
    table = claims_table(claims, rows, {"text": "Text", "more": "More"})
    assert list(table["p (Holm)"]) == ["0.0010", "0.0010", "0.0005"]


def test_p_values_are_corrected_over_the_whole_table() -> None:
    rows = [row("dti", 0.6, seed=1), row("ti", 0.5, seed=2), row("other", 0.4, seed=3)]
    labels = {r.name: r.label for r in rows}
    table = differences_table(compare(rows, ["dti"], ["text"]), labels, {"text": "Text"})
    assert list(table["p (sign flip)"]) == ["0.0005", "0.0005"]  # 2 / 2^12: all subjects agree
    assert list(table["p (Holm)"]) == ["0.0010", "0.0010"]
    assert list(table["row"]) == ["TI", "OTHER"]


def test_rows_are_compared_over_the_subjects_that_both_have() -> None:
    """Real references have no score for a subject with one photo."""
    dti = row("dti", 0.6)
    some = {subject: dti.scores["text"][subject] - 0.1 for subject in ("s03", "s05")}
    references, one = Row("references", "R", {"text": some}), Row("one", "One", {"text": {"s00": 0}})
    (found,) = compare([dti, references, one], ["dti"], ["text"]).itertuples()
    assert (found.row, found.difference) == ("references", pytest.approx(-0.1))
    assert references.minus(dti, "text").t.n == 2


def test_markdown_is_a_table_whatever_the_cells_hold() -> None:
    text = markdown([["a", "b|c"], ["1", "2\n2"]])
    assert text.splitlines() == ["| a   | b\\|c |", "| --- | ---- |", "| 1   | 2 2  |"]


def test_a_table_says_how_prompts_were_read_and_whether_references_were_masked(tmp_path: Path) -> None:
    """SDXL's pooled text, SANA's instruction (here one of two lines) and masks change what scores mean. The notes
    under a table on one of the paper's models say where its code does otherwise."""
    ti = row("ti", 0.5)
    both = replace(ti, scores={"image": ti.scores["text"], "text": ti.scores["text"]})
    rows = (RowSpec("ti", "TI", ("method=ti",)), RowSpec("crossinit", "CrossInit", ("method=crossinit",)))
    experiment = Experiment("x", "X", (), {"image": "i", "text": "t"}, "image", ("text",), rows)

    def table(masked: bool, *setup: str) -> str:
        concepts = dict.fromkeys(SUBJECTS)
        run = ExperimentRun(experiment, "runs", setup, generate=("prompts=simple", "seeds=[0,1]"), concepts=concepts)
        command = "python -m dti_repro.benchmark experiment=x"
        write_tables(tmp_path, make_report(run, [both], ["norm"], command, masked))
        return (tmp_path / "table.md").read_text(encoding="utf-8")

    toybox = table(True)
    assert f"12 subjects ({', '.join(SUBJECTS)}), 41 prompts (`simple`), 1 training seed (42), 2 image seeds" in toybox
    assert "references black outside of their masks. Cells" in toybox
    assert "published code" not in toybox
    sdxl = table(True, "backbone=sdxl", "backbone.pool=eos")
    assert "references black outside of their masks. Drawn with `backbone.pool=eos`. " in sdxl
    assert "(there: each photo's own size and the corner of its crop)" in sdxl
    assert "cut at 127" in sdxl
    sana = table(False, "backbone=sana_1600m", "backbone.instruction='Say:\nit'")
    assert "as they are. Drawn with `backbone.instruction=Say: it`. " in sana
    assert "(there: DTI's prompts begin with 0 to 15 zero vectors)" in sana
    published = table(False, "backbone=sana_1600m", "backbone.as_published=true")
    assert "Drawn with `backbone.as_published=True`. " in published
    assert "unequal (`backbone.as_published`): in training, prompts of DTI begin with 0 to 15 zero vectors" in published
    assert "(there: in bfloat16)" in sana
    assert "(there: in bfloat16)" not in published
    assert "CrossInit's prior is the distance to the initial value (there: its mean square)" in sana
    assert "cut at 127" not in sana


def test_every_backbone_that_is_run_otherwise_than_in_the_paper_exists() -> None:
    targets = {yaml.safe_load(path.read_text())["_target_"] for path in (CONF / "backbone").glob("*.yaml")}
    assert set(DEVIATIONS) < targets


def test_tables_and_scores_are_utf_8_under_any_locale(tmp_path: Path) -> None:
    """They hold \u00b1 and whatever is in prompts and names."""
    script = """
import locale, sys
from pathlib import Path
from dti_repro.artifacts.scores import ScoreRow, read_scores, write_scores
from pandas import DataFrame
from dti_repro.experiments.tables import write_csv
from dti_repro.artifacts.files import read_yaml
from dti_repro.metrics.catalogue import metric_config
assert locale.getpreferredencoding() != "UTF-8"
folder = Path(sys.argv[1])
rows = [ScoreRow("f", "a {}", "caf\\u00e9", 0, "rex", "m", 0.5)]
write_scores(folder / "a.csv", rows)
assert read_scores(folder / "a.csv") == rows
write_csv(folder / "t.csv", DataFrame({"\\u00b1": ["\\u00b1"]}))
assert read_yaml(folder / "m.yaml")["title"] == "\\u00b1"
"""
    (tmp_path / "m.yaml").write_text("title: \u00b1\n", encoding="utf-8")
    ascii_only = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.csv").read_bytes() == "\u00b1\n\u00b1\n".encode()
