"""Every stage of a backbone runs on random weights of its published widths, and its row says what it took."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.published import published_file
from dti_repro.backbones.untrained import part_classes, random_model
from dti_repro.backbones.untrained_tokenizers import clip_tokenizer, gemma_tokenizer, t5_tokenizer
from dti_repro.config import CONF
from dti_repro.cost.full_width import MEMORY, STAGES, Stages
from dti_repro.errors import ProcessDiedError
from tests.reference.test_plan import PUBLISHED

WIDTHS = Path(__file__).with_name("narrow_widths.yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_built_checkpoint_has_the_published_numbers_of_parameters(name: str) -> None:
    classes = part_classes(read_yaml(CONF / "backbone" / f"{name}.yaml"))
    parts = read_yaml(published_file(name))["parts"]
    assert parts.keys() == classes.keys()
    for part, config in parts.items():
        with torch.device("meta"):
            model = random_model(classes[part], config)
        millions = PUBLISHED[name]["denoiser" if part in ("unet", "transformer") else part]
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        count = sum(weight.numel() for weight in model.parameters()) / 1e6
        assert count == pytest.approx(millions, rel=0.02 if millions == 4800 else 1e-4), part


def test_tokenizers_have_vocabularies_of_the_size_that_is_asked_for() -> None:
    assert len(clip_tokenizer("!")) == 49408
    for tokenizer in (gemma_tokenizer(5000), t5_tokenizer(5000)):
        assert len(tokenizer) == 5000
        ids = tokenizer(" a photo of the cat", add_special_tokens=False).input_ids
        assert tokenizer.convert_ids_to_tokens(ids) == ["▁a", "▁photo", "▁of", "▁the", "▁cat"]


def test_a_stage_that_fails_is_one_line_that_names_its_log(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    assert stages.run("load", "-c", "print('one'); print('two')") == "two"
    with pytest.raises(ProcessDiedError) as failed:
        stages.run("generate", "-c", "import sys; sys.exit('error: too large')")
    log = tmp_path / "generate.log"
    assert str(failed.value) == f"generate ended with code 1 (error: too large): its log is {log}"
    with pytest.raises(ProcessDiedError, match="train_dti ended with code 0, before it was to be killed"):
        stages.run("train_dti", "-c", "", until=lambda: False)
    assert stages.run("train_dti", "-c", "import time; time.sleep(60)", until=lambda: True) == ""
    assert stages.failed == "train_dti"
    assert all(seconds < 30 and peak > 1 << 20 for seconds, peak in stages.measured.values())


def full_width(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    asked = ["backbone=sdxl", "backbone.resolution=64", f"widths={WIDTHS}", f"folder={folder / 'made'}", *arguments]
    train = "train=[trainer.steps=12,trainer.batch=1,trainer.precision=bf16]"  # enough to be killed in between
    command = [sys.executable, "-m", "dti_repro.full_width", *asked, train]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)


def rows(file: Path) -> Sequence[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


@pytest.mark.slow
def test_every_stage_runs_and_is_measured_beside_the_plan(tmp_path: Path) -> None:
    """On narrow widths. The rows of other backbones are kept, and the folder goes when that is asked for."""
    file = tmp_path / "out" / "full_width.csv"
    file.parent.mkdir()
    file.write_text("backbone,pixels,failed\nwan_1300m,256,build\nsdxl,8,build\n")
    done = full_width(tmp_path, f"out={file.parent}", "delete=true")
    assert done.returncode == 0, done.stderr
    ours, other = rows(file)
    assert (other["backbone"], other["pixels"], other["failed"]) == ("wan_1300m", "256", "build")
    assert (ours["backbone"], ours["pixels"], ours["failed"]) == ("sdxl", "64", "")
    for stage in STAGES:
        assert float(ours[f"{stage} seconds"]) > 0
        assert int(ours[f"{stage} peak"]) > 50 << 20
    assert float(ours["weights planned"]) == 2 * int(ours["parameters"])
    assert all(int(ours[part]) > 0 for part in MEMORY)
    page = file.with_suffix(".md").read_text()
    assert all(head in page for head in (*STAGES.values(), "| sdxl ", "| wan_1300m "))
    assert not any((tmp_path / "made").iterdir())
