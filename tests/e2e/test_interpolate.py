"""From one learned word to another: the files, the pictures, and the cases without an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.inference.interpolation import interpolate
from tests.e2e.trained import trained_run, vectors

Compose = Callable[..., DictConfig]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    words = {"rex": vectors(0), "tom": 3 * vectors(1), "anti": -2 * vectors(0), "two": vectors(2, count=2)}
    return trained_run(tmp_path / "runs", words)


def request(run: Path, b: str, *more: str) -> list[str]:
    return [f"a={run / 'rex'}", f"b={run / b}", "sampling_steps=2", f"runs={run.parents[3]}", *more]


def test_the_ends_are_the_words_themselves_and_their_pictures(run: Path, compose: Compose) -> None:
    folder = interpolate(compose("interpolate", *request(run, "tom", "steps=3")))
    points = [load_embedding(folder / f"step_{k:02d}" / "embedding.safetensors")[1] for k in range(3)]
    torch.testing.assert_close(points[0], vectors(0))
    torch.testing.assert_close(points[2], 3 * vectors(1))
    norms = [point.norm().item() for point in points]
    assert norms[1] == pytest.approx((norms[0] + norms[2]) / 2, rel=1e-5)
    (own, _) = generate(compose("generate", f"run={run}", 'prompts=["a {}"]', "steps=2", "concepts.names=[rex,tom]"))
    ours = next((folder / "step_00").glob("images/*/p000_s0.png"))
    assert np.array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(own / "p000_s0.png")))
    (grid,) = folder.glob("grid_*.png")
    assert Image.open(grid).width > 3 * 144


def test_a_second_time_draws_nothing(run: Path, compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose("interpolate", *request(run, "tom", "steps=2", "mode=lerp"))
    assert interpolate(cfg) == interpolate(cfg)
    assert "0 images drawn, 2 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("b", "more", "complaint"),
    [
        ("anti", [], "antipodal"),
        ("two", [], "equally many vectors"),
        ("nosuch", [], "does not exist"),
        ("", [], "several concepts"),
        ("tom", ["steps=1"], "steps is 1:"),
        ("tom", ["steps=1000000000"], "steps is 1000000000: a whole number of at least 2 and at most 1000"),
        ("tom", ["a=5"], "a is 5: the path of a folder is needed"),
        ("tom", ["negative_prompt='a {rex}'"], "no concept 'rex' here"),
        ("tom", ["mode=cubic"], "mode is cubic: slerp or lerp"),
        ("tom", ["backbone.name=other"], "trained on stable_diffusion"),
        ("tom", ['prompts=["{rex}"]'], "use {}"),
    ],
)
def test_no_answer_is_one_clear_line(
    run: Path, compose: Compose, b: str, more: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.load.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    cfg = compose("interpolate", *request(run, b, *more))
    with pytest.raises(InputError) as error:  # noqa: PT012
        validate("interpolate", cfg)
        interpolate(cfg)
    assert complaint in str(error.value)


def test_lerp_goes_through_zero_between_opposite_words(run: Path, compose: Compose) -> None:
    folder = interpolate(compose("interpolate", *request(run, "anti", "steps=4", "mode=lerp")))
    point = load_embedding(folder / "step_01" / "embedding.safetensors")[1]
    assert point.norm().item() == pytest.approx(0, abs=1e-6)
