"""Photos are encoded once on a machine if trainer.latents is set, and the result is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.data.latent_cache import LatentCache, make_private_folder
from dti_repro.errors import InputError
from dti_repro.training.train_missing import train
from tests.crash import started, status_of

Training = Callable[..., DictConfig]


def refuse(*_: object) -> None:
    raise AssertionError("encoded again")


def test_a_second_job_encodes_nothing_and_learns_the_same_bytes(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = train(training(f"runs={tmp_path / 'without'}"))[0].embedding.read_bytes()
    kept = f"trainer.latents={tmp_path / 'node'}"
    assert train(training(f"runs={tmp_path / 'first'}", kept))[0].embedding.read_bytes() == without
    (file,) = (tmp_path / "node").iterdir()
    monkeypatch.setattr(StableDiffusion, "encode_images", refuse)
    assert train(training(f"runs={tmp_path / 'second'}", kept))[0].embedding.read_bytes() == without
    with pytest.raises(AssertionError, match="encoded again"):  # other threads round differently
        train(training(f"runs={tmp_path / 'third'}", kept, "trainer.threads=2"))
    monkeypatch.undo()
    whole = file.read_bytes()
    zeros = whole[: -len(whole) // 2] + bytes(len(whole) // 2)
    for k, damage in enumerate((b"", whole[:50], whole[:-1], zeros)):
        file.write_bytes(damage)
        again = train(training(f"runs={tmp_path / str(k)}", kept))[0]
        assert again.embedding.read_bytes() == without
        assert file.read_bytes() == whole


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used a GPU cannot be forked")
def test_jobs_that_encode_at_once_leave_one_whole_file(training: Training, tmp_path: Path) -> None:
    backbone = load_backbone(training().backbone, "cpu")
    cache, pixels = LatentCache(tmp_path / "node", {"threads": 1}), torch.rand(3, 3, 16, 16) * 2 - 1

    def job() -> None:
        for k in range(20):
            cache.encode(backbone, pixels.roll(k % 3, 0))

    assert [status_of(child) for child in [started(job, []) for _ in range(3)]] == [0, 0, 0]
    assert len(list((tmp_path / "node").iterdir())) == 3  # as many as there are orders of photos, and nothing half done
    fresh = LatentCache(None, {}).encode(backbone, pixels)
    kept = cache.encode(backbone, pixels)
    assert torch.equal(kept.mean, fresh.mean)
    assert torch.equal(kept.std, fresh.std)


def test_a_folder_that_cannot_be_written_or_is_not_the_users_alone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    make_private_folder(folder)
    folder.chmod(0o750)
    with pytest.raises(InputError, match=r"node: other users have access to it; `chmod 700` it"):
        make_private_folder(folder)
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(InputError, match=r"node cannot be written"):
        make_private_folder(folder)
