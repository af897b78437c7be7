"""`make speed` compares with the published code and diffusers' script as they are: what it runs of them must work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.scores import read_scores
from dti_repro.data.concept import Toybox

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("whole_table", [False, True], ids=["published", "diffusers"])
def test_the_loops_of_others_train_the_new_row_alone(tmp_path: Path, whole_table: bool) -> None:
    from narrow import narrow_sdxl
    from others import Training

    (bird,) = Toybox(names=["bird"]).load()
    training = Training(narrow_sdxl(tmp_path), bird, size=64, batch=1, whole_table=whole_table)
    before = [word.detach().clone() for word in training.words]
    steps = training.steps()
    next(steps), next(steps)
    for old, word in zip(before, training.words, strict=True):
        changed = (word != old).any(dim=-1)
        assert changed.all() if not whole_table else changed.tolist() == [False] * (len(word) - 1) + [True]
    assert all(loss > 0 for loss in training.losses)


def test_pairs_are_compared_turn_by_turn() -> None:
    from turns import Seconds, measure, rows_of

    second = iter([Seconds(1, 1), Seconds(1, 2), Seconds(2, 4), Seconds(4, 4)])
    pair = measure("slow / fast", lambda: Seconds(4, 8), lambda: next(second), repeats=3)
    head, row = rows_of([pair])
    assert dict(zip(head, row, strict=True)) == {
        "what: a / b": "slow / fast",
        "a, CPU s": "4",
        "b, CPU s": "2",
        "a / b, CPU s": "2.00",
        "least to most": "1.00 to 4.00",
        "a / b, wall s": "2.00",
    }


@pytest.mark.slow
def test_everything_is_measured_and_scores_agree(tmp_path: Path) -> None:
    """Our metrics and the published way give the same numbers for the same images."""
    import speed

    with initialize_config_dir(str(BENCHMARKS), version_base="1.3"):
        small = [
            "repeats=1",
            "steps=2",
            "subjects=2",
            "packs=[2]",
            "seeds=1",
            "seeds_of_one=1",
            "image_steps=1",
            "size=64",
            "photo=64",
        ]
        cfg = compose("speed", small)
    torch.set_num_threads(1)
    comparison = speed.Comparison(tmp_path, cfg)
    pairs = [*comparison.pairs(), *speed.toybox_pairs(tmp_path, cfg)]
    assert all(len(pair.first) == len(pair.second) == 1 for pair in pairs)

    subject = comparison.subjects[0]
    run = comparison.ours.train([subject.name])
    comparison.ours.draw(run, seeds=1)
    comparison.ours.score(run, comparison.metrics)
    (manifest,) = run.rglob("manifest.json")
    images = Manifest.read(manifest).images
    texts = [image.text for image in images]
    theirs = comparison.scoring.score([manifest.parent / image.file for image in images], texts, subject.images)
    rows = [row for csv in run.rglob("scores/*.csv") for row in read_scores(csv)]
    for metric, score in zip(speed.METRICS, theirs, strict=True):
        mine = [row.value for row in rows if row.metric == metric]
        assert sum(mine) / len(mine) == pytest.approx(score, abs=1e-3)


def test_a_step_is_timed_inside_one_training(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that loading a model takes vary by more than a step."""
    from gpu import seconds_of_step

    waits: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    with initialize_config_dir(str(BENCHMARKS), version_base="1.3"):
        overrides = ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.batch=1", "templates=toybox"]
        overrides.append("trainer.threads=1")
        cfg = compose("gpu", ["backbone=toybox", "steps=5"])
    cfg.overrides = overrides
    began = time.perf_counter()
    seconds = seconds_of_step(cfg, checkpoint, ["bird", "car"])
    assert 0 < 2 * seconds < time.perf_counter() - began
    assert len(waits) == 2
