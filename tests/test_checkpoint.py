"""Where a checkpoint is taken from, and what is said when it is not there. No test asks a server."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from dti_repro.backbones.checkpoint import commit, fingerprint, locate
from dti_repro.errors import InputError

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
    """A whole checkpoint as far as anybody can see without loading it."""
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


def test_variants_that_are_never_read_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    fill(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / "unet" / "model.fp16.safetensors").write_bytes(b"half")
    assert fingerprint(tmp_path) == before
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"other")
    assert fingerprint(tmp_path) != before
