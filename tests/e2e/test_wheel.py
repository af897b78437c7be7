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


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_is_the_installed_package_that_answers(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-c", "import dti_repro; print(dti_repro.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(installed)
    assert (installed / "dti_repro" / "experiments" / "page" / "page.html").is_file()


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "interpolate", "benchmark", "report", "demo"])
def test_every_command_finds_its_configuration(installed: Path, tmp_path: Path, command: str) -> None:
    more = ["experiment=main_table"] if command in ("benchmark", "report") else []
    done = run(installed, tmp_path, "-m", f"dti_repro.{command}", *more, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout or "run:" in done.stdout
    assert not list(tmp_path.iterdir()), "printing a configuration leaves nothing behind"


@pytest.mark.skipif(not PACKAGED.is_dir(), reason="the toybox's weights are not there")
def test_it_trains_and_draws_with_the_packaged_weights_and_subjects(installed: Path, tmp_path: Path) -> None:
    short = ["trainer.steps=1", "trainer.batch=1", "trainer.threads=1", "trainer.progress=false"]
    trained = run(installed, tmp_path, "-m", "dti_repro.train", "method=dti", *short)
    assert trained.returncode == 0, trained.stderr
    (embedding,) = tmp_path.glob("runs/toybox/dti/*/seed_42/*/embedding.safetensors")
    asked = [f"run={embedding.parent}", "prompts=toybox_simple", "steps=1", "threads=1", "progress=false"]
    drawn = run(installed, tmp_path, "-m", "dti_repro.generate", *asked)
    assert drawn.returncode == 0, drawn.stderr
    assert list(embedding.parent.glob("images/*/p000_s0.png"))
