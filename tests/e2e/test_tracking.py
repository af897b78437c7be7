"""W&B and TensorBoard get what a command made: configuration, a readable name, numbers, pictures, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig
from PIL import Image

from dti_repro.artifacts import tracking as tracker
from dti_repro.artifacts.tracking import check_logger, run_label, tracking
from dti_repro.errors import InputError
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.launch.command_line import compose
from dti_repro.training.train_missing import train


def events(folder: Path):
    """Return TensorBoard's own reading of a run's folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    return found


@pytest.fixture
def trained(training: Callable[..., DictConfig]) -> Path:
    """The seed's folder of a run with one concept, trained with TensorBoard and two previews."""
    names = "concepts.names=[ann]"
    (folder,) = train(training("logger=tensorboard", "method=ti", "trainer.preview_every=3", names))
    return folder.seed_folder


def test_training_has_a_name_its_configuration_numbers_and_previews(trained: Path, tmp_path: Path) -> None:
    (folder,) = (tmp_path / "runs/.tensorboard").iterdir()
    assert folder.name == f"train_ti_ann_seed42_{trained.parent.name}"
    found = events(folder)
    assert [event.step for event in found.Scalars("ann/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in found.Images("ann/previews/preview")] == [3, 6]
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["trainer"]["steps"] == 6


def test_generated_images_and_scores_are_shown(trained: Path, checkpoint: Path, subjects: Path, tmp_path: Path) -> None:
    runs, logger = f"runs={tmp_path / 'runs'}", "logger=tensorboard"
    model = [f"backbone.path={checkpoint}", "steps=1", "threads=1", "progress=false", "accelerator=cpu"]
    (images,) = generate(compose("generate", [f"run={trained}", "prompts=['a {} at sea']", runs, logger, *model]))
    found = events(tmp_path / f"runs/.tensorboard/generate_ti_{trained.parent.name}_inline_ann_{images.name}")
    assert found.Tags()["images"] == ["seed_42/ann/a <ann> at sea, seed 0"]
    assert found.Scalars("seed_42/ann/images")[0].value == 1

    own = [f"concepts.root={subjects}", "metrics=[toybox_image]", "accelerator=cpu"]
    evaluate(compose("evaluate", [f"run={trained}", runs, logger, *own]))
    found = events(tmp_path / f"runs/.tensorboard/evaluate_ti_{trained.parent.name}_seed_42")
    value = found.Scalars(f"{images.name}/ann/toybox_image")[0].value
    text = found.Tensors(f"{images.name}/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| ann     | {value:.3f} (1)" in text


def test_wandb_gets_all_kinds_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = compose("evaluate", [f"run={tmp_path}", f"runs={tmp_path}", "logger=wandb"])
    began = {}
    start = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **keys: began.setdefault("run", start(**keys)))
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    with tracking(cfg, "evaluate", "ti", "abc") as tracker:
        tracker.numbers({"ann/image": 0.25}, step=3)
        tracker.images("pictures", {"front": picture, "grid": Image.new("RGB", (8, 8), "blue")})
        tracker.table("table", ["concept", "image"], [["ann", 0.25], ["bob", None]], "")
        assert began["run"].summary["ann/image"] == 0.25
    run = began["run"]
    assert run.name == "evaluate_ti_abc"
    assert run.job_type == "evaluate"
    assert run.config["metrics"] == "toybox"
    files = sorted(path for path in Path(run.dir).rglob("media/**/*") if path.is_file())
    pictures = [path for path in files if path.suffix == ".png"]
    assert len(pictures) == 2
    assert Image.open(pictures[0]).size == (8, 8)
    (table,) = [json.loads(path.read_text()) for path in files if path.name.endswith(".table.json")]
    assert (table["columns"], table["data"]) == (["concept", "image"], [["ann", 0.25], ["bob", None]])
    assert wandb.run is None  # finished: the next one of this process is a run of its own


def test_a_name_of_one_s_own_is_kept_and_wrong_settings_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["run=x", f"runs={tmp_path}", "logger=tensorboard"]
    with tracking(compose("evaluate", [*asked, "+logger.version=mine"]), "a"):
        pass
    assert [path.name for path in (tmp_path / ".tensorboard").iterdir()] == ["mine"]
    wrong = compose("evaluate", [*asked, "+logger._private=a"])
    with pytest.raises(InputError, match=r"logger\._private"), tracking(wrong, "a"):
        pass
    elsewhere = compose("evaluate", ["run=x", "logger=wandb", "+logger.settings={base_url: 'https://evil'}"])
    with pytest.raises(InputError, match=r"logger\.settings is no setting of this logger"), tracking(elsewhere, "a"):
        pass
    elsewhere = compose("evaluate", ["run=x", "logger=tensorboard", "logger.save_dir='ftp://evil/x'"])
    with pytest.raises(InputError, match=r"logger\.save_dir is an address"), tracking(elsewhere, "a"):
        pass
    monkeypatch.setattr(tracker, "find_spec", lambda package: None)
    with pytest.raises(InputError, match="logger: tensorboard is not installed: pip install tensorboard, or give log"):
        check_logger(elsewhere)
    assert run_label(["a", "b", "c", "d", "e"]) == "a+b+c+2more"
