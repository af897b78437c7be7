"""Checkpoints as others keep them: one file in the original layout, and folders of fp16 weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from dti_repro.artifacts.run_dir import embedding_files
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.location import commit, find, locate, located
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from dti_repro.training.train_missing import train
from tests.tiny import build_tiny_clip_sd, build_tiny_sdxl
from tests.tiny_single_file import write_single_file

BUILD = {
    "sd15": lambda folder: build_tiny_clip_sd(folder, openclip=False),
    "sd21_base": lambda folder: build_tiny_clip_sd(folder, openclip=True),
    "sdxl": build_tiny_sdxl,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints in diffusers' format, by backbone."""
    root = tmp_path_factory.mktemp("folders")
    return {name: build(root / name) for name, build in BUILD.items()}


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ones as single files."""
    root = tmp_path_factory.mktemp("files")
    return {name: write_single_file(folder, root / f"{name}.safetensors") for name, folder in folders.items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no connection."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{key}": rows
        for file in folder.glob("*/*.safetensors")
        for key, rows in load_file(file).items()
    }


def config(name: str, folders: dict[str, Path], subjects: Path, *keys: str) -> DictConfig:
    short = ["trainer.steps=2", "trainer.batch=1", "trainer.threads=1", "trainer.progress=false"]
    own = [f"backbone={name}", f"backbone.path={folders[name]}", "backbone.resolution=16", "backbone.dtype=float32"]
    return compose("train", [*own, "trainer.accelerator=cpu", *short, f"concepts.root={subjects}", *keys])


@pytest.mark.parametrize("name", list(BUILD))
def test_a_single_file_has_the_weights_of_its_folder(
    name: str, folders: dict[str, Path], files: dict[str, Path], tmp_path: Path, home: Path
) -> None:
    """Nothing is downloaded, and the folder of the configurations may lack weights."""
    configs = Path(shutil.copytree(folders[name], tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors")))
    made = locate(str(files[name]), config=str(configs))
    assert made.is_relative_to(home)
    expected, found = weights(folders[name]), weights(made)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], rows) for key, rows in expected.items())


def test_a_word_is_learned_from_a_single_file_as_from_its_folder(
    folders: dict[str, Path], files: dict[str, Path], subjects: Path, tmp_path: Path
) -> None:
    from_folder = train(config("sd15", folders, subjects, f"runs={tmp_path / 'folder'}"))[0]
    keys = (f"backbone.config={folders['sd15']}", f"runs={tmp_path / 'file'}")
    from_file = train(config("sd15", files, subjects, *keys))[0]
    for encoder, file in embedding_files(from_folder.embedding).items():
        ours = load_file(embedding_files(from_file.embedding)[encoder])
        for key, rows in load_file(file).items():
            torch.testing.assert_close(ours[key], rows)


def test_a_file_is_converted_once_and_known_by_its_content(
    folders: dict[str, Path], files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = write_single_file(folders["sd15"], tmp_path / "my model (v1).safetensors", torch.float16)
    configs = str(folders["sd15"])
    assert find(str(half), config=configs) is None
    made = locate(str(half), config=configs)
    assert "my model (v1).safetensors: converted once, to" in capsys.readouterr().err
    assert find(str(half), config=configs) == locate(str(half), config=configs) == made
    assert capsys.readouterr().err == ""
    assert {rows.dtype for rows in weights(made).values()} == {torch.float16}
    moved = half.rename(tmp_path / "other.safetensors")
    assert fingerprint(locate(str(moved), config=configs)) == fingerprint(made)
    assert fingerprint(locate(str(files["sd15"]), config=configs)) != fingerprint(made)
    assert not list(made.parent.glob(".making*"))


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_the_backbone_of_another_family_is_one_line(
    layout: str, folders: dict[str, Path], files: dict[str, Path], subjects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_repro.backbones.single_file.create_once", lambda *_: pytest.fail("a file was converted"))
    given = folders if layout == "folder" else files
    for backbone, other, choices in (("sd15", "sdxl", "sdxl"), ("sdxl", "sd15", "sd15 or sd21_base or ")):
        cfg = config(backbone, {backbone: given[other]}, subjects)
        with pytest.raises(InputError, match=rf"{given[other].name} is a Stable\w+Pipeline: choose backbone={choices}"):
            located(cfg.backbone)


def adapter(file: Path) -> None:
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2)}, file)


def lacking(file: Path) -> None:
    rows = load_file(file)
    rows.pop("model.diffusion_model.out.2.weight")
    save_file(rows, file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), r"sd15\.safetensors does not exist"),
        (lambda file: file.write_bytes(b"x"), r"sd15\.safetensors cannot be read"),
        (adapter, r"sd15\.safetensors holds no whole checkpoint of Stable Diffusion"),
        (lacking, r"sd15\.safetensors: the checkpoint cannot be loaded|lacks 1 weights"),
    ],
    ids=["none", "damaged", "lora", "lacking"],
)
def test_a_file_that_cannot_be_used_is_one_line(
    spoil: Callable[[Path], object],
    words: str,
    folders: dict[str, Path],
    files: dict[str, Path],
    tmp_path: Path,
    subjects: Path,
) -> None:
    file = Path(shutil.copy(files["sd15"], tmp_path))
    spoil(file)
    cfg = config("sd15", {"sd15": file}, subjects, f"backbone.config={folders['sd15']}", f"runs={tmp_path / 'runs'}")
    with pytest.raises(InputError, match=words) as error:
        train(cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part", [["helper", "X"], ["diffusers.helper", "X"], ["transformers", "AutoTokenizer"], "ab", [["x"], "y"]], ids=str
)
def test_configurations_from_elsewhere_import_nothing(
    part: object, folders: dict[str, Path], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers would import the module that a part names."""
    monkeypatch.setattr("dti_repro.backbones.single_file.create_once", lambda *_: pytest.fail("a file was converted"))
    configs = Path(shutil.copytree(folders["sd15"], tmp_path / "configs"))
    index = json.loads((configs / "model_index.json").read_text())
    for name in ("scheduler", "tokenizer", "extra"):
        (configs / "model_index.json").write_text(json.dumps({**index, name: part}))
        with pytest.raises(InputError, match=rf"{name} is .*, which is not loaded"):
            locate(str(files["sd15"]), config=str(configs))


def test_what_a_file_needs_is_said(folders: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    file = str(files["sd15"])
    for config, words in (
        (None, r"is a single file, without configurations and tokenizers: add backbone\.config="),
        ("/nowhere", r"backbone\.config /nowhere does not exist"),
        (
            "someone/tiny",
            r"backbone\.config someone/tiny, which sd15\.safetensors needs .* run `hf download someone/tiny",
        ),
        (
            str(folders["sdxl"]),
            r"backbone\.config .*/sdxl is for a StableDiffusionXLPipeline, and .* StableDiffusionPip",
        ),
    ):
        with pytest.raises(InputError, match=words):
            locate(file, config=config)
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.ckpt is a pickle or of another program"):
        locate(str(tmp_path / "a.ckpt"), config=str(folders["sd15"]))


@pytest.fixture
def fp16(folders: dict[str, Path], tmp_path: Path) -> Path:
    """SD 1.5's folder with fp16 files only, the UNet's in two with an index, but for a plain VAE."""
    folder = Path(shutil.copytree(folders["sd15"], tmp_path / "fp16"))
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.fp16.safetensors")
    unet = folder / "unet"
    rows = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    index = {}
    for k in (1, 2):
        name = f"diffusion_pytorch_model.fp16-0000{k}-of-00002.safetensors"
        part = dict(list(rows.items())[k - 1 :: 2])
        save_file(part, unet / name, {"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {"total_size": 1}, "weight_map": index}
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(content))
    return folder


def test_a_variant_is_read_if_it_is_asked_for(fp16: Path, folders: dict[str, Path], subjects: Path, home: Path) -> None:
    with pytest.raises(InputError, match=r"no weights in text_encoder: .* which backbone\.variant=fp16 reads"):
        locate(str(fp16))
    with pytest.raises(InputError, match=r"backbone\.variant=bf16: .* has no such weights"):
        locate(str(fp16), variant="bf16")
    view = locate(str(fp16), variant="fp16")
    assert view.is_relative_to(home)
    cfg = config("sd15", {"sd15": fp16}, subjects, "backbone.variant=fp16")
    found = load_backbone(cfg.backbone, "cpu").state_dict()
    expected = load_backbone(config("sd15", folders, subjects).backbone, "cpu").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], rows) for key, rows in expected.items())


def test_a_variant_of_a_snapshot_keeps_its_commit(fp16: Path, home: Path) -> None:
    place = home / "hub" / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    snapshot = place / "snapshots" / ("0" * 40)
    shutil.copytree(fp16, snapshot)
    view = find("someone/tiny", variant="fp16")
    assert view is not None
    assert commit(view) == commit(snapshot) == "0" * 40
    assert find("someone/tiny") is None
