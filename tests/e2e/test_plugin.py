"""A package elsewhere has a method, a metric and an experiment of its own, which the commands use by name."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from dti_repro.config import plugins as plugins_module
from dti_repro.config.plugins import choices, conf_folders, plugins
from dti_repro.training.train_missing import train

Training = Callable[..., DictConfig]

FILES = {
    "__init__.py": "",
    "method.py": """
from torch import nn
from dti_repro.methods.base import SharedVectors
from dti_repro.methods.initializers import initial_vectors

class Scaled(SharedVectors):
    \"\"\"Vectors that are learned at a fixed scale.\"\"\"

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def parameters_of(self, start, spec):
        rows = {name: initial_vectors("token", start, name, encoder) for name, encoder in spec.encoders.items()}
        return nn.ParameterDict({name: value.detach() / self.scale for name, value in rows.items()})

    def vectors_of(self, concept):
        return {name: rows * self.scale for name, rows in self.concepts[concept].items()}
""",
    "control.py": """
from dti_repro.methods.norm_controls import NormControl

class Halve(NormControl):
    \"\"\"Half of each vector is kept after a step.\"\"\"

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, vectors, initializer, encoder, lr):
        return self.share * vectors
""",
    "pulled.py": """
from dti_repro.methods.textual_inversion import TextualInversion

class Pulled(TextualInversion):
    \"\"\"Textual Inversion whose prompts are drawn to those with the class word.\"\"\"

    def __init__(self, weight: float) -> None:
        super().__init__("token", None)
        self.weight = weight

    def regularizer(self, context):
        distance = (context.conditioning.hidden - context.encode_class().hidden).square().mean(dim=(1, 2))
        return self.weight * context.mean(distance)
""",
    "conf/norm_control/halve.yaml": "_target_: my_package.control.Halve\nshare: 0.5\n",
    "conf/method/pulled.yaml": """
defaults:
  - override /optim@_global_.optim: adamw
  - _self_
name: pulled
_target_: my_package.pulled.Pulled
weight: 1.0
""",
    "metric.py": """
import numpy as np
import torch
from dti_repro.metrics.base import ImageMetric

class Brightness(ImageMetric):
    \"\"\"The mean of an image's pixels, from 0 to 1.\"\"\"

    def __init__(self, checkpoint: str) -> None:
        super().__init__()

    def score(self, images, samples):
        return torch.tensor([np.asarray(image).mean() / 255 for image in images])
""",
    "conf/method/scaled.yaml": """
defaults:
  - override /optim@_global_.optim: adamw
  - _self_
name: scaled
_target_: my_package.method.Scaled
scale: 2.0
""",
    "conf/metric/brightness.yaml": "_target_: my_package.metric.Brightness\ncheckpoint: none\n",
    "conf/experiment/bright.yaml": """
title: Bright
setup: [backbone=toybox, 'concepts.names=[ann]']
train: [trainer.steps=2, trainer.batch=2, trainer.progress=false, trainer.threads=1]
generate: [steps=1, "prompts=['a {} on a beach']", progress=false, threads=1]
metrics: {brightness: brightness}
image: brightness
text: [brightness]
rows:
  - {name: ti, overrides: [method=ti]}
  - {name: scaled, overrides: [method=scaled, method.scale=3.0]}
""",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder that has my_package."""
    for name, text in FILES.items():
        file = tmp_path / "lib" / "my_package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "lib"


@pytest.fixture
def run(package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable]:
    """run("train", "plugins=[my_package]", ...) -> the command's exit code and stderr; in this process."""

    def call(command: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        code = 0
        try:
            import_module(f"dti_repro.{command}").main()
        except SystemExit as left:
            code = int(left.code or 0)
        return code, capsys.readouterr().err

    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv(plugins_module.VARIABLE, "")
    yield call
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_a_plugin_is_trained_scored_and_tabulated(
    run: Callable, package: Path, checkpoint: Path, subjects: Path, tmp_path: Path
) -> None:
    model = f"setup=[backbone.path={checkpoint},backbone.resolution=16,concepts.root={subjects}]"
    places = [f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "accelerator=cpu"]
    command = ["benchmark", "experiment=bright", model, *places]
    assert run(*command, "plugins=[my_package]")[0] == 0
    with (tmp_path / "out" / "bright" / "table.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert 0 < float(rows["scaled"]["brightness"]) < 1
    assert rows["ti"]["brightness"] != rows["scaled"]["brightness"]
    assert "plugins=[my_package]" in (tmp_path / "out" / "bright" / "table.md").read_text()

    jobs = ["train", "-m", "hydra/launcher=local", "plugins=[my_package]", "method=scaled", "trainer.steps=1"]
    small = [f"backbone.path={checkpoint}", f"concepts.root={subjects}", "trainer.threads=1", "trainer.progress=false"]
    line = [sys.executable, "-m", "dti_repro", *jobs, *small, f"runs={tmp_path / 'jobs'}"]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    result = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "1 jobs: 1 ran" in result.stdout

    for name, line in (
        ("other", "error: plugins: there is no package 'other': install it, or set PYTHONPATH to its folder\n"),
        ("", "error: unknown experiment 'bright' (choices: ablation, "),
    ):
        code, said = run(*command, f"plugins=[{name}]")
        assert code == 2
        assert said.startswith(line)


def test_a_yaml_alone_names_no_package(run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("plugins: [my_package]\n" + FILES["conf/method/scaled.yaml"])
    code, said = run("train", f"--config-dir={folder.parent}", "method=mine")
    assert code == 2
    assert "_target_ 'my_package.method.Scaled' is refused" in said


@pytest.fixture
def installed(run: Callable, package: Path) -> Iterator[Path]:
    """The folder of my_package, which declares itself by an entry point."""
    info = package / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dti_repro.plugins]\nmine = my_package\n")
    plugins_module._installed.cache_clear()
    yield package
    plugins_module._installed.cache_clear()


def test_an_installed_package_is_found_by_its_entry_point(installed: Path) -> None:
    assert plugins() == ["my_package"]
    assert conf_folders()[1:] == [installed / "my_package" / "conf"]
    assert "brightness" in choices("metric")


def test_a_norm_control_and_a_regularizer_of_a_plugin_act_on_the_steps(installed: Path, training: Training) -> None:
    norms = {}
    for name in ("ti", "halved", "pulled"):
        cfg = training("method=ti", "trainer.steps=2")
        if name == "halved":
            cfg.method.norm_control = yaml.safe_load(FILES["conf/norm_control/halve.yaml"])
        if name == "pulled":
            cfg.method = {"name": name, "_target_": "my_package.pulled.Pulled", "weight": 1.0}
        (folder,) = train(cfg)
        with folder.log.open(newline="") as file:
            norms[name] = [float(row["norm"]) for row in csv.DictReader(file)]
    assert norms["halved"][0] == pytest.approx(norms["ti"][0] / 2, rel=1e-5)
    assert norms["pulled"] != norms["ti"]


def test_a_typo_beside_a_plugin_is_one_line(run: Callable) -> None:
    code, said = run("train", "plugins=[my_package]", "method=scaled", "trainer.stepz=4")
    assert code == 2
    assert said.startswith("error: ")
    assert "did you mean 'trainer.steps'?" in said
    assert said.count("\n") == 1


def test_a_plugin_that_misses_a_package_names_it(run: Callable, package: Path) -> None:
    module = package / "my_package" / "method.py"
    module.write_text("import no_such_package\n" + module.read_text())
    code, said = run("train", "plugins=[my_package]", "method=scaled")
    assert code == 2
    assert "No module named 'no_such_package'" in said
