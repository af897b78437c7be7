"""`dti mechanism`: one CSV, one figure and one section for each part; what is there is not measured again."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file

from dti_repro.backbones.base import EncoderSpec
from dti_repro.config import validate
from dti_repro.config.schema import MechanismPart
from dti_repro.errors import InputError
from dti_repro.experiments.mechanism.inputs import Inputs
from dti_repro.experiments.mechanism.study import PARTS, study
from dti_repro.training.train_missing import train
from tests.composed import composed
from tests.tiny_flow import build_tiny_sana

FEW = ["norms=[0.5,16]", "seeds=[0]", "factors=[1,50]", "words=[cat,car,zzz]", "steps=20"]


@pytest.fixture
def mechanism(checkpoint: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """mechanism("key=value", ...) -> the configuration of the command, on the tiny checkpoint and into tmp_path/out."""

    def compose(*overrides: str) -> DictConfig:
        cfg = composed("mechanism", f"backbone.path={checkpoint}", f"out={tmp_path / 'out'}", *FEW, *overrides)
        validate("mechanism", cfg)
        return cfg

    return compose


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_learned_words_stand_beside_the_vocabulary_and_nothing_is_measured_twice(
    mechanism: Callable[..., DictConfig],
    training: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = []
    for method in ("ti", "dti"):
        folders = train(training(f"method={method}", "concepts.names=[ann,bob]"))
        runs.append(str(folders[0].path.parents[1]))
    overrides = [
        f"runs=[{','.join(runs)}]",
        "picture.norms=[1,50]",
        "picture.steps=1",
        "picture.prompts=['a {} on the grass']",
    ]
    cfg = mechanism(*overrides, "picture.progress=false")
    page = study(Inputs.of(cfg), "dti mechanism ...")
    out = page.parent
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in PARTS:
        assert {f"{name}.csv", f"{name}.png", f"{name}.pdf"} <= written.keys()
        assert f"]({name}.png)" in page.read_text()

    norms = {
        row["name"]: float(row["value"]) for row in table(out / "vocabulary_norms.csv") if row["kind"] == "statistic"
    }
    spec = EncoderSpec.of(Inputs.of(cfg).encoders["text_encoder"].table)
    assert {key: norms[key] for key in spec.norms} == pytest.approx(dict(spec.norms), rel=1e-5)
    bins = [float(row["value"]) for row in table(out / "vocabulary_norms.csv") if row["kind"] == "bin"]
    assert sum(bins) == norms["rows"]
    learned = {(row["group"], row["word"]) for row in table(out / "attention.csv")}
    assert learned == {
        ("vocabulary", "cat"),
        ("vocabulary", "car"),
        *((m, w) for m in ("ti", "dti") for w in ("ann", "bob")),
    }
    logged = [float(row["norm"]) for row in table(Path(runs[0]) / "seed_42" / "ann" / "log.csv")]
    other = [float(row["norm"]) for row in table(Path(runs[0]) / "seed_42" / "bob" / "log.csv")]
    curve = [row for row in table(out / "norm_by_step.csv") if row["label"] == "ti"]
    assert float(curve[-1]["norm"]) == pytest.approx((logged[-1] + other[-1]) / 2, rel=1e-5)
    assert any("on noise" in row["label"] for row in table(out / "norm_by_step.csv"))
    assert {row["norm"] for row in table(out / "text_score_by_norm.csv")} == {"own", "x1", "x50"}

    def never(inputs: Inputs) -> None:
        raise AssertionError("measured again")

    for part in PARTS.values():
        monkeypatch.setattr(part, "measure", never)
    for path in out.glob("*.p*"):
        path.unlink()
    study(Inputs.of(cfg), "dti mechanism ...")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written


def test_another_prompt_measures_only_what_reads_it(
    mechanism: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = "parts=[residual_updates,attention]"
    study(Inputs.of(mechanism(parts)), "")
    capsys.readouterr()
    study(Inputs.of(mechanism(parts, "attention_prompt='the {}'")), "")
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["attention"]


def test_the_page_says_what_does_not_apply_to_gemma(mechanism: Callable[..., DictConfig], tmp_path: Path) -> None:
    folder = build_tiny_sana(tmp_path / "sana")
    parts = "parts=[positions,residual_updates,attention]"
    page = study(Inputs.of(mechanism("backbone=sana_1600m", f"backbone.path={folder}", parts)), "").read_text()
    assert "gemma2 adds no vector for a position" in page
    assert "gemma2 adds no end token" in page
    assert "](positions.png)" not in page
    assert "](residual_updates.png)" in page


def test_the_parts_that_can_be_named_are_those_that_exist() -> None:
    assert get_args(MechanismPart) == tuple(PARTS)


def test_words_that_do_not_fit_are_refused(
    mechanism: Callable[..., DictConfig], training: Callable[..., DictConfig], checkpoint: Path, tmp_path: Path
) -> None:
    narrow = tmp_path / "narrow.safetensors"
    save_file({"<x>": torch.ones(1, 5)}, narrow)
    with pytest.raises(InputError, match=r"narrow\.safetensors: '<x>' is 5 wide"):
        study(Inputs.of(mechanism(f"runs=[{narrow}]")), "")
    with pytest.raises(InputError, match="does not exist"):
        Inputs.of(mechanism("runs=[nowhere]"))
    (folder,) = train(training("method=dti", "concepts.names=[ann]"))
    with pytest.raises(InputError, match="trained on toybox: add backbone=toybox"):
        Inputs.of(mechanism("backbone=stable_diffusion", f"runs=[{folder.path}]"))
    with pytest.raises(InputError, match="with other weights"):
        Inputs.of(mechanism("backbone.path=null", f"runs=[{folder.path}]"))
    with pytest.raises(InputError, match="none is one token of text_encoder"):
        study(Inputs.of(mechanism("words=[zzz]")), "")
    with pytest.raises(InputError, match="parts"):
        mechanism("parts=[nothing]")
