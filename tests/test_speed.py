"""`make speed` takes too long to run here. What it calls of the evaluators must exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dti_repro.data.concept import Toybox

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_evaluator_is_measured_both_ways_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    (bird,) = Toybox(names=["bird"]).load()
    pair = speed.evaluation([Image.new("RGB", (48, 48), "teal")] * 17, bird, repeats=2)
    assert len(pair.plain) == len(pair.ours) == 2
    assert all(seconds > 0 for seconds in (*pair.plain, *pair.ours))
    assert speed.rows_of([pair])[1][0].startswith("evaluator, 17 images")
