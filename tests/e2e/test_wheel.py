"""The package works from any folder once installed: configs, subjects and weights are found inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dti_repro.backbones.checkpoint import PACKAGED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, to be put before the existing environment; the source is not on its path."""
    made, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", made, ROOT], check=True
    )
    (wheel,) = made.glob("dti_repro-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


CODE = """
import sys
from importlib import import_module
for line in sys.argv[1:]:
    sys.argv = line.split()
    command = import_module(f"dti_repro.{sys.argv[0]}")
    print("in", command.__file__)
    command.main()
"""


def run(installed: Path, folder: Path, *commands: str) -> list[str]:
    """Give one command after the other, in a process of their own; what each prints."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-P", "-c", CODE, *commands]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"in {installed}/dti_repro/") == len(commands), "it is the installed package that answers"
    return done.stdout.split(f"in {installed}/dti_repro/")[1:]


def test_every_command_finds_its_configuration(installed: Path, tmp_path: Path) -> None:
    names = ["train", "evaluate", "generate", "interpolate", "demo"]
    names += ["benchmark experiment=main_table", "report experiment=main_table"]
    for said in run(installed, tmp_path, *(f"{name} --cfg job" for name in names)):
        assert "runs" in said or "run:" in said
    assert not list(tmp_path.iterdir()), "printing a configuration leaves nothing behind"
    assert (installed / "dti_repro" / "experiments" / "page" / "page.html").is_file()


@pytest.mark.skipif(not PACKAGED.is_dir(), reason="the toybox's weights are not there")
def test_it_trains_and_draws_with_the_packaged_weights_and_subjects(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "train trainer.steps=1 trainer.batch=1 trainer.threads=1 trainer.progress=false")
    (embedding,) = tmp_path.glob("runs/toybox/dti/*/seed_42/*/embedding.safetensors")
    word = embedding.parent.relative_to(tmp_path)
    run(installed, tmp_path, f"generate run={word} prompts=toybox_simple steps=1 threads=1 progress=false")
    assert list(embedding.parent.glob("images/*/p000_s0.png"))
