"""Generations that cannot be drawn: one line that names the key, before a model is loaded, and nothing is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.manifest import Manifest
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.errors import InputError
from dti_repro.generate import generate, main
from tests.e2e.trained import trained_run, vectors

Compose = Callable[..., DictConfig]
LONG = "a {} " + "left of a cat " * 10
BAD: list[tuple[dict[str, Any], str]] = [
    ({"run": "nosuch", "prompts": "???"}, "run folder nosuch does not exist"),
    ({"prompts": "???"}, "prompts is missing"),
    ({"prompts": 5}, "prompts is 5"),
    ({"prompts": "nosuch"}, "prompts=nosuch"),
    ({"prompts": "nosuch.txt"}, "nosuch.txt: no such file"),
    ({"prompts": ["a dog"]}, "has no {}"),
    ({"prompts": ["a {max}"]}, "no concept 'max'"),
    ({"prompts": [5]}, "5 is neither a template nor"),
    ({"prompts": ["a {} and a <tom>"]}, "no vectors are given for <tom>; write a learned word as {name}"),
    (
        {"prompts": [LONG]},
        "would lose 'left of a cat left of a cat left of a cat' (and 1 more such prompts): shorten",
    ),
    ({"negative_prompt": LONG.replace("{}", "dog")}, "longer than the text encoder can read"),
    ({"negative_prompt": "a <sam>"}, "no vectors are given for <sam>"),
    ({"negative_prompt": "a {sam}"}, "negative_prompt: there is no concept 'sam' here"),
    ({"negative_prompt": "a {"}, "negative_prompt: 'a {' is not a template"),
    ({"negative_prompt": "{}", "prompts": ["{rex} and {tom}"]}, "negative_prompt: {} could be rex or tom here"),
    ({"negative_prompt": None}, "negative_prompt is null: text is needed"),
    ({"prompts_long": "no"}, "prompts_long is no: refuse or cut"),
    ({"seeds": None}, "seeds is null"),
    ({"seeds": [1, 1]}, "seeds has a seed twice"),
    ({"width": 8}, "width and height are given together"),
    ({"width": 20, "height": 16}, "width is 20"),
    ({"seeds": 1.5}, "seeds is 1.5"),
    ({"seeds": ["x"]}, "whole numbers"),
    ({"batch": 0}, "batch is 0"),
    ({"steps": 0}, "steps is 0"),
    ({"steps": True}, "steps is true"),
    ({"steps": 1001}, "steps=1001: the model has 1000 timesteps"),
    ({"guidance": True}, "guidance is true"),
    ({"guidance": "x"}, "guidance is x"),
    ({"guidance": -1}, "guidance is -1"),
    ({"width": 1 << 20, "height": 16}, "width is 1048576: a multiple of 8, at most 4096 pixels, or null"),
    ({"width": True, "height": 16}, "width is true"),
    ({"run": 5}, "run is 5: the path of a folder"),
    ({"runs": 5}, "runs is 5: the path of a folder"),
    ({"run": None, "text": 5}, "text is 5: class, description or null"),
    ({"text": "class"}, "either run=<folder> or text="),
    ({"backbone.path": "nosuch"}, "nosuch"),
    ({"backbone.name": "other"}, "was trained on stable_diffusion"),
    ({"snapshot": 1.5}, "snapshot is 1.5"),
    ({"threads": 0}, "threads is 0"),
    ({"concepts.names": 5}, "concepts.names: 5 is not in run="),
    ({"concepts.names": ["max"]}, "concepts.names: max is not in run="),
    ({"sampler.scheduler": 5}, "sampler.scheduler is 5: text"),
    ({"sampler.options": [5]}, "sampler.options is [5]: a mapping"),
    ({"sampler.scheduler": "FlowMatchEulerDiscreteScheduler"}, "is for flow models, and this is none"),
    ({"sampler.options.etta": 1}, "DDIMScheduler has no option 'etta' (there are: beta_end, beta_schedule"),
    ({"sampler.options.timestep_spacing": "odd"}, "steps=2 with DDIMScheduler: odd"),
    ({"sampler.options.beta_schedule": "odd"}, "sampler.options: DDIMScheduler with"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained_run(tmp_path / "runs", {"rex": vectors(0), "tom": vectors(1)})


@pytest.fixture
def cfg(run: Path, compose: Compose) -> DictConfig:
    return compose("generate", f"run={run}", "steps=2", 'prompts=["a {}"]', "seeds=[0,1]", "batch=1")


def changed(cfg: DictConfig, changes: dict[str, Any]) -> DictConfig:
    own = deepcopy(cfg)
    for key, value in changes.items():
        OmegaConf.update(own, key, value, merge=False, force_add=True)
    return own


def left(run: Path) -> set[str]:
    return {path.name for path in run.glob("*/images/*/*")} - {"lock"}


def test_a_refused_generation_is_one_line_and_leaves_nothing(
    cfg: DictConfig, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.load.load_backbone", lambda *_: pytest.fail("a model was loaded"))
    for changes, complaint in BAD:
        with pytest.raises(InputError) as error:
            generate(changed(cfg, changes))
        assert complaint in str(error.value), changes
    assert not left(run)


def test_a_long_prompt_is_cut_if_asked_for(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    own = changed(cfg, {"prompts": [LONG], "prompts_long": "cut", "seeds": [0], "concepts.names": ["rex"]})
    (folder,) = generate(own)
    assert "is cut: 'left of a cat left of a cat left of a cat' is lost" in capsys.readouterr().out
    assert (folder / "p000_s0.png").is_file()


def test_the_negative_prompt_reads_learned_words(cfg: DictConfig) -> None:
    """That of the picture itself, and others of the run by name or by placeholder."""
    folders = []
    for negative in ("a {}", "a {tom}", "a <tom>"):
        own = changed(cfg, {"negative_prompt": negative, "concepts.names": ["rex", "tom"], "seeds": [0]})
        folders.append(generate(own)[0])
    own, other, written = (Manifest.read(folder / "manifest.json") for folder in folders)
    assert own.generation["negative_prompt"] == "a <rex>"
    assert set(own.embedding_sha256) == {"rex"}
    assert set(other.embedding_sha256) == {"rex", "tom"}
    assert other == written


def test_a_picture_that_is_no_number_is_not_saved(cfg: DictConfig, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = StableDiffusion._generate_pixels

    def broken(self: StableDiffusion, *arguments: Any, **more: Any) -> np.ndarray:
        pictures = drawn(self, *arguments, **more)
        pictures[-1, 0, 0, 0] = np.nan
        return pictures

    monkeypatch.setattr(StableDiffusion, "_generate_pixels", broken)
    with pytest.raises(InputError, match=r"prompt 'a <rex>', seed 1: the image holds numbers that are not finite"):
        generate(changed(cfg, {"batch": 2}))
    assert not left(run)


def test_ctrl_c_says_how_many_pictures_are_there(
    cfg: DictConfig, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says it in one line and ends as a shell expects it."""
    drawn, calls = StableDiffusion._generate_pixels, iter(range(9))

    def interrupted(self: StableDiffusion, *arguments: Any, **more: Any) -> np.ndarray:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return drawn(self, *arguments, **more)

    monkeypatch.setattr(StableDiffusion, "_generate_pixels", interrupted)
    overrides = [f"run={run}", "steps=2", "prompts=['a {}']", "seeds=[0,1]", "batch=1", "threads=1", "progress=false"]
    checkpoint = [f"backbone.path={cfg.backbone.path}", "backbone=stable_diffusion", "accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["generate", *overrides, *checkpoint])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    said = "stopped: 1 of 4 missing images are drawn; the same command draws the others"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert left(run) == {"manifest.json", "p000_s0.png"}


def test_nothing_is_written_through_a_link(cfg: DictConfig, tmp_path: Path) -> None:
    cfg = changed(cfg, {"concepts.names": ["rex"]})
    (folder,) = generate(cfg)
    (folder / "p000_s0.png").unlink()
    file, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    file.write_text("kept")
    elsewhere.mkdir()
    for link, goal in ((folder / "lock", file), (folder, elsewhere), (folder.parent, elsewhere)):
        link.rename(tmp_path / f"old {link.name}")
        link.symlink_to(goal)
        with pytest.raises(InputError, match=f"{link} is a symbolic link, and nothing is written through one"):
            generate(cfg)
        assert (file.read_text(), list(elsewhere.iterdir())) == ("kept", [])
