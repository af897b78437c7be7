"""Experiments that are more than a table: a search, ways between learned words, words by training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.tiny_benchmark import lines, run


@pytest.mark.slow
def test_a_search_writes_the_best_setting_with_the_kappa_it_used(world: Path) -> None:
    result = run(world, "tiny_search", overrides=("hydra/launcher=basic",))
    assert result.returncode == 0, result.stderr
    assert "#2/0" in result.stdout  # k50 waits for k0's gradient: a second sweep
    chosen = yaml.safe_load((world / "searched.yaml").read_text())["dti"]
    assert chosen["row"] in ("k0", "k50")
    rows = {row["row"]: row for row in lines(world / "out" / "tiny_search" / "table.csv")}
    assert rows["k0"]["criterion"]
    assert float(rows["k50"]["kappa"]) == pytest.approx(0.5 * float(rows["k0"]["gradient"]), rel=0.06)


def test_ways_between_words_are_measured_for_each_pair_and_training_seed_and_only_once(world: Path) -> None:
    assert (result := run(world, "between", into="_between")).returncode == 0, result.stderr
    out = world / "out_between" / "between"
    found = lines(out / "paths.csv")
    pairs = [("rex", "tom"), ("rex", "zoe"), ("tom", "zoe")]
    wanted = [(way, *pair, seed) for way in ("ti_way", "dti_way") for seed in ("42", "43") for pair in pairs]
    assert [(line["path"], line["a"], line["b"], line["seed"]) for line in found] == wanted
    assert {line["pair"] for line in found} == {"same class"}
    assert all(1 / 3 <= float(line["largest"]) <= 1 and 0 <= float(line["in_class"]) <= 1 for line in found)
    assert (out / "paths.pdf").is_file()
    before = (out / "paths.csv").stat().st_mtime_ns
    assert "paths:" not in run(world, "between", into="_between").stdout
    assert (out / "paths.csv").stat().st_mtime_ns == before


def test_a_row_for_each_snapshot_gives_the_way_of_each_method(world: Path) -> None:
    assert (result := run(world, "by_step", into="_by_step")).returncode == 0, result.stderr
    out = world / "out_by_step" / "by_step"
    found = [line for line in lines(out / "trajectories.csv") if line["source"] == "ours"]
    assert [(line["label"], line["step"]) for line in found] == [
        ("class", ""),
        *((label, step) for label in ("TI", "ti_rescaled", "DTI") for step in ("2", "4")),
    ]
    norms = {row["row"]: row["norm"] for row in lines(out / "table.csv")}
    assert float(norms["ti_2"]) != float(norms["ti_4"])
    assert (out / "trajectories.png").is_file()


def test_a_row_that_cannot_be_trained_is_found_before_another_is(world: Path) -> None:
    """`between` trains TI before DTI, which AdamW cannot step."""
    refused = run(world, "between", into="_refused", overrides=("train=[optim=adamw]",))
    assert refused.returncode == 2
    assert "row 'dti': method 'dti' learns unit directions, which optim AdamW cannot step" in refused.stderr
    assert not list((world / "runs_refused").rglob("embedding.safetensors"))
