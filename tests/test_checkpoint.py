"""How a checkpoint is found, and the error if it is not whole. No test needs a server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from dti_repro.backbones import checkpoint as checkpoint_files
from dti_repro.backbones.checkpoint import check_words, encoder_dims, fingerprint
from dti_repro.backbones.hub import patterns
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.location import commit, locate, parts_without
from dti_repro.errors import InputError
from tests.tiny import build_tiny_sd

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one snapshot of someone/tiny in an otherwise empty cache, without a connection."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "models--someone--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def fill(folder: Path) -> None:
    """Write a checkpoint that looks whole as long as it is not loaded."""
    names = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", **{name: ["library", "Class"] for name in names}}
    (folder / "model_index.json").write_text(json.dumps({**index, "safety_checker": [None, None]}))
    for name in names:
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(name.encode())


def test_a_hub_id_is_its_snapshot_in_the_cache_and_the_commit_is_known(cache: Path) -> None:
    fill(cache)
    found = locate("someone/tiny", "main")
    assert found == cache
    assert commit(found) == COMMIT
    assert commit(cache.parent.parent) is None


@pytest.mark.parametrize("half", [False, True])
def test_without_a_connection_what_is_missing_is_one_line_that_says_how_to_get_it(cache: Path, half: bool) -> None:
    if half:  # an interrupted download
        fill(cache)
        (cache / "unet" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"hf download someone/tiny --revision main") as error:
        locate("someone/tiny")
    assert "\n" not in str(error.value)


def test_a_gated_model_is_one_line_that_says_what_to_accept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    real = huggingface_hub.snapshot_download

    def refuse(repository: str, local_files_only: bool = False, **options: object) -> str:
        if local_files_only:
            return real(repository, local_files_only=True, **options)
        error = GatedRepoError.__new__(GatedRepoError)
        OSError.__init__(error, "403 Client Error.\n\nAccess is restricted.")
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="gated: accept its licence") as error:
        locate("someone/other")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_without_weights_is_named(tmp_path: Path, part: str) -> None:
    fill(tmp_path)
    weights = tmp_path / part / "model.safetensors"
    weights.rename(weights.with_name("model.fp16.safetensors"))
    with pytest.raises(InputError, match=f"no weights in {part}"):
        locate(str(tmp_path))


def test_weights_are_hashed_again_only_where_a_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny_sd(tmp_path / "checkpoint")
    before = fingerprint(folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "update_with_file", lambda *_: pytest.fail("a file was read again"))
        assert fingerprint(folder) == before
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    times = weights.stat()
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(folder) != before


def test_variants_that_are_never_read_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    fill(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / "unet" / "model.fp16.safetensors").write_bytes(b"half")
    assert fingerprint(tmp_path) == before
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"other")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model.bin", r"unet/pytorch_model\.bin is a pickle, which is never loaded"),
        ("other.safetensors", "no weights in unet"),
        ("model.safetensors.index.json", "no weights in unet"),
    ],
)
def test_a_file_of_another_name_does_not_replace_the_weights(file: str, words: str, tmp_path: Path) -> None:
    """The libraries would take the .bin file, which the fingerprint does not cover."""
    fill(tmp_path)
    (tmp_path / "unet" / "model.safetensors").rename(tmp_path / "unet" / "dummy.safetensors")
    content = json.dumps({"weight_map": {"a": "../vae/model.safetensors"}}) if file.endswith("json") else "x"
    (tmp_path / "unet" / file).write_text(content)
    with pytest.raises(InputError, match=words):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_index.json", "[]"),
        ("model_index.json", "{"),
        ("model_index.json", "\ufeff"),
        ("model_index.json", '{"unet": ["diffusers", "UNet2DConditionModel"]}'),
        ("text_encoder/config.json", "[]"),
        ("text_encoder/config.json", '{"hidden_size": "wide"}'),
        ("text_encoder/config.json", '{"hidden_size": null}'),
    ],
)
def test_odd_json_is_one_line(file: str, content: str, tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "text_encoder" / "config.json").write_text('{"hidden_size": 8}')
    assert encoder_dims(tmp_path) == {"text_encoder": 8}
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=r"json") as error:
        encoder_dims(locate(str(tmp_path))) or pytest.fail("no encoder")
    assert "\n" not in str(error.value)


def settings(path: Path) -> DictConfig:
    kind = "dti_repro.backbones.stable_diffusion.StableDiffusion"
    return OmegaConf.create({"_target_": kind, "name": "x", "path": str(path), "resolution": None})


def lacking(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop("conv_out.bias")
    save_file(weights, file)


def of_another_width(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 64}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lacking, "unet lacks 1 weights of a UNet2DConditionModel, such as conv_out.bias"),
        (of_another_width, "unet cannot be loaded"),
        (lambda folder: (folder / "unet" / "config.json").write_text("null"), "unet cannot be loaded"),
        (lambda folder: (folder / "text_encoder" / "config.json").write_text("[]"), "text_encoder cannot be loaded"),
        (lambda folder: (folder / "text_encoder" / "model.safetensors").write_bytes(b"x"), "text_encoder cannot be"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text("[]"), "tokenizer cannot be loaded"),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{}"),
            "scheduler_config.json is damaged",
        ),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config.json is damaged"),
    ],
    ids=["lacking", "width", "unet json", "encoder json", "weights", "tokenizer", "scheduler", "no scheduler"],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    spoil: Callable[[Path], object], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(InputError, match=words) as error:
        load_backbone(settings(copy), "cpu")
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_code_and_adapters_of_a_checkpoint_are_not_loaded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask whether to run the code, and add the adapter."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run the code"))
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    file = copy / "tokenizer" / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key != "tokenizer_class"}
    file.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    (copy / "tokenizer" / "evil.py").write_text("raise SystemExit('it ran')")
    with suppress(InputError):  # or the tokenizer's own kind is found without it
        check_words(copy, [("cat", "<rex>")])
    copy = Path(shutil.copytree(checkpoint, tmp_path / "adapted"))
    (copy / "text_encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="text_encoder has an adapter, which is not loaded"):
        load_backbone(settings(copy), "cpu")


def test_a_vocabulary_of_eight_bits_is_looked_up(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    file = copy / "text_encoder" / "model.safetensors"
    save_file({key: rows.to(torch.float8_e4m3fn) for key, rows in load_file(file).items()}, file)
    check_words(copy, [("cat", "<rex>")])
    with pytest.raises(InputError, match="'qqq' is unknown"):
        check_words(copy, [("qqq", "<rex>")])


def test_a_part_without_the_variant_keeps_its_plain_weights(checkpoint: Path, tmp_path: Path) -> None:
    """Repositories have a variant of some parts only; the plain weights of the others are downloaded."""
    folder = tmp_path / "mixed"
    shutil.copytree(checkpoint, folder)
    for part in ("unet", "text_encoder"):
        (weights,) = (folder / part).glob("*.safetensors")
        weights.rename(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")))
    assert parts_without(folder, "fp16") == ["vae"]
    files = [str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")]
    taken = {name for name in files if any(fnmatch(name, p) for p in patterns("fp16", plain=["vae"])["allow_patterns"])}
    assert taken == set(files)
    assert parts_without(checkpoint, "fp16") == []
