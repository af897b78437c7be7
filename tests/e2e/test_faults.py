"""Whatever a person can mend is one clear line that names it, and what was written before is kept."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dti_repro import evaluate as evaluate_module
from dti_repro import generate as generate_module
from dti_repro import train as train_module
from dti_repro.artifacts.lock import locked
from dti_repro.errors import DivergedError, InputError, OutOfMemoryError
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train
from tests.crash import content, obey_permissions, started, status_of
from tests.e2e import tiny_benchmark
from tests.e2e.trained import trained_run, vectors

Training = Callable[..., DictConfig]


def test_damaged_scores_are_computed_again_and_a_damaged_manifest_is_named(
    drawn: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    cfg = drawn("a")
    evaluate(cfg)
    (rows,) = tmp_path.rglob("scores/*.csv")
    record, whole = rows.with_suffix(".json"), rows.read_bytes()
    for path in (rows, record):
        for length in (0, len(path.read_bytes()) // 2, path.read_bytes().rindex(b"\n", 0, -1) + 1):
            path.write_bytes(path.read_bytes()[:length])
            evaluate(cfg)
            assert rows.read_bytes() == whole
    (manifest,) = tmp_path.rglob("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"manifest\.json is damaged: delete its folder and generate again"):
        evaluate(cfg)


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes, as on a disk that is full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_what_was_written_stays(training: Training, tmp_path: Path) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    full = r"cannot be written \(File too large\): check its folder"
    with full_after(1500), pytest.raises(InputError, match=rf"last\.ckpt {full}"):  # what comes before is smaller
        train(training("trainer.checkpoint_every=2"))
    assert content(train(training())[0].path) == content(whole.path)


def test_a_full_disk_is_one_line_for_pictures_and_scores_and_locks(
    drawn: Callable[[str], DictConfig], compose: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """capsys keeps in memory what is printed, so that it finds room."""
    run = trained_run(tmp_path / "words", {"rex": vectors(0)})
    asked = compose("generate", f"run={run}", "prompts=['a {}']", "steps=1")
    with full_after(200), pytest.raises(InputError, match=r"manifest\.json cannot be written \(File too large\)"):
        generate(asked)
    generate(asked)
    cfg = drawn("a")
    with full_after(200), pytest.raises(InputError, match=r"\.csv cannot be written \(File too large\)"):
        evaluate(cfg)
    evaluate(cfg)
    with full_after(0), pytest.raises(InputError, match=r"new cannot be written: File too large"):  # noqa: SIM117
        with locked(tmp_path / "new" / "lock", "it"):
            pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used a GPU cannot be forked")
@pytest.mark.parametrize("name", ["train", "sweep", "generate", "evaluate"])
def test_a_read_only_folder_is_one_line(
    name: str,
    checkpoint: Path,
    subjects: Path,
    drawn: Callable[[str], DictConfig],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}"]
    match name:
        case "train" | "sweep":
            command, folder = train_module.main, tmp_path / "runs"
            folder.mkdir()
            places = [f"concepts.root={subjects}", f"runs={folder}"]
            arguments = [*(["-m"] if name == "sweep" else []), *tiny_benchmark.EXTRA, *model, *places]
        case "generate":
            command, run = generate_module.main, trained_run(tmp_path / "runs", {"rex": vectors(0)})
            folder = run / "rex"
            arguments = [*model, f"run={run}", "prompts=['a {}']", "steps=1", "threads=1", "progress=false"]
        case _:
            cfg = drawn("runs")
            command, folder = evaluate_module.main, next(tmp_path.glob("runs/**/rex"))
            metrics = f"metrics=[{','.join(cfg.metrics)}]"
            arguments = [f"run={cfg.run}", metrics, "accelerator=cpu", f"concepts.root={cfg.concepts.root}"]
    folder.chmod(0o555)
    capfd.readouterr()
    assert status_of(started(command, arguments, obey_permissions)) == 2
    said = capfd.readouterr().err
    assert said.splitlines()[-1].startswith(f"error: run folder {folder}" if name != "sweep" else f"error: {folder}")
    assert "cannot be written" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_an_image_that_vanishes_in_mid_run_is_named_and_the_rest_is_kept(
    drawn: Callable[[str], DictConfig], of_photos: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = drawn("a")
    (picture,) = tmp_path.rglob("p001_s0.png")
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(InputError, match=r"p001_s0\.png does not exist"):
        evaluate(cfg)
    picture.write_bytes(kept)
    evaluate(cfg)
    photo = tmp_path / "rex" / "0.png"
    photo.parent.mkdir()
    photo.write_bytes(kept)
    own = of_photos(photo.parent)
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", _vanish(photo))
    with pytest.raises(InputError, match=r"0\.png does not exist"):
        train(own)
    monkeypatch.undo()
    photo.write_bytes(kept)
    assert train(own)[0].is_done()


def _vanish(photo: Path) -> Callable[..., object]:
    from dti_repro.backbones.load import load_backbone

    def load(*arguments: object) -> object:
        photo.unlink()
        return load_backbone(*arguments)

    return load


def test_a_nan_in_the_loss_keeps_the_last_good_state_and_the_run_goes_on_from_it(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}", "concepts.names=[ann,bob]"))
    losses, calls = InversionModule._losses, iter(range(99))

    def broken_once(self: InversionModule, *a: object) -> tuple:
        factor = math.nan if next(calls) == 5 else 1
        return tuple(loss * factor for loss in losses(self, *a))

    monkeypatch.setattr(InversionModule, "_losses", broken_once)
    with pytest.raises(DivergedError, match=r"'bob' diverged at step 3: loss nan.* after step 2 is kept in"):
        train(training("concepts.names=[ann,bob]"))
    folder = run_folder(training()).concept("bob")
    state = torch.load(folder.checkpoint, weights_only=True)
    assert state["step"] == 2
    assert all(bool(torch.isfinite(p).all()) for p in state["parameters"].values())
    assert folder.checkpoint.stat().st_size < 20_000
    assert not folder.is_done()
    assert run_folder(training()).concept("ann").is_done()  # the other one of its pack went on without it
    for ours, theirs in zip(train(training("concepts.names=[ann,bob]")), whole, strict=True):
        assert content(ours.path) == content(theirs.path)


def test_a_clock_that_goes_backwards_changes_nothing(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(training(f"runs={tmp_path / 'whole'}"))[0]
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    folder = train(training("trainer.checkpoint_every=2"))[0]
    monkeypatch.undo()
    assert content(folder.path) == content(whole.path)
    assert json.loads(folder.provenance.read_text())["seconds"] == 0


def test_too_little_memory_says_what_to_reduce(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str) -> Callable[..., object]:
        return lambda *_: (_ for _ in ()).throw(RuntimeError(text))

    with monkeypatch.context() as patch:
        patch.setattr("dti_repro.training.trainer.load_backbone", full("DefaultCPUAllocator: not enough memory"))
        with pytest.raises(OutOfMemoryError, match=r"loading the model: give backbone\.dtype=bfloat16"):
            train(training())
    monkeypatch.setattr(InversionModule, "_losses", full("CUDA out of memory. Tried to allocate 2 GiB"))
    keys = r"trainer\.batch \(2;.*trainer\.pack.*backbone\.resolution \(16\).*backbone\.checkpointing"
    with pytest.raises(OutOfMemoryError, match=keys):
        train(training())
