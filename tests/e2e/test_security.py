"""Configurations, embeddings, checkpoints and results from elsewhere are data: they run nothing, leave no folder, and
whatever is wrong with them is one clear line."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger
from torch.optim import Optimizer

from dti_repro import train as train_module
from dti_repro.adapters.base import Adapter
from dti_repro.artifacts.embedding import load_embedding
from dti_repro.artifacts.manifest import Manifest
from dti_repro.backbones.backbone import Backbone
from dti_repro.config import build, target
from dti_repro.cost.estimate import Device
from dti_repro.data.concept import Concept, ConceptSet
from dti_repro.data.download import Source
from dti_repro.errors import InputError
from dti_repro.generate import generate
from dti_repro.losses.objectives import Objective
from dti_repro.losses.priors import Prior
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.methods.norm_controls import NormControl
from dti_repro.metrics.base import ScoreMetric
from dti_repro.toybox.training import Stage
from dti_repro.training import concept_state
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train
from tests.crash import assert_same, stop_after
from tests.e2e.trained import trained_run, vectors

Training = Callable[..., DictConfig]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "os.system",
        "pickle.loads",
        "importlib.import_module",
        "hydra.utils.instantiate",
        "pytorch_lightning.Trainer",
        "torch.optim.lr_scheduler.torch.load",  # what an allowed module has imported
        "torch.optim.swa_utils.update_bn",
        "torch.optim.AdamW",  # a class of another kind
        "torch.optim.Optimizer",
        "dti_repro.training.concept_state.torch.hub.load",
        "dti_repro.train.train.__globals__.get",
        "dti_repro.artifacts.files.json.loads",
        "dti_repro.experiments.tables.write_csv",  # functions of this package, with a path that another one makes
        "dti_repro.launch.sweep.sweep_folder",
        "dti_repro.artifacts.files.write_json",
        "dti_repro.backbones.stable_diffusion.StableDiffusion",
        "dti_repro.toybox.dataset.RenderedScenes",  # which fills a folder
        "dti_repro.metrics.encoders.TimmEncoder.load",
        "dti_repro.methods.textual_inversion.TextualInversion.initialise",
        "dti_repro.losses.priors.Prior",  # abstract
        "dti_repro..train",
        "dti_repro",
        "",
        None,
        7,
    ],
)
def test_a_target_of_another_kind_is_refused_however_deep(name: object) -> None:
    dti = {"_target_": "dti_repro.methods.dti.DTI", "magnitude": "mean", "learn_magnitude": False, "magnitude_lr": 0.1}
    for node, base in [
        ({"_target_": name}, TokenMethod | DerivedMethod),
        ({"_target_": name}, ConceptSet),
        ({**dti, "init": "token", "prior": {"_target_": name}}, TokenMethod),
        ({**dti, "init": {"_target_": name}}, TokenMethod),
        ({**dti, "init": [1, [{"_target_": name}]]}, TokenMethod),
        (OmegaConf.create({"_target_": "${x}", "x": name}), Prior),
    ]:
        with pytest.raises(InputError, match="_target_") as error:
            build(node, base)
        assert "\n" not in str(error.value)


def test_settings_that_a_constructor_does_not_take_are_named() -> None:
    def dti(**changes: object) -> dict[str, object]:
        text = "_target_: dti_repro.methods.dti.DTI\nmagnitude: mean\ninit: token\nlearn_magnitude: false"
        prior = {"_target_": "dti_repro.losses.priors.VonMisesFisher", "kappa": 0.1}
        return {**yaml.safe_load(text), "magnitude_lr": 0.1, "prior": prior, **changes}

    assert build(dti(magnitude_lr=1), TokenMethod).magnitude_lr == 1
    for node, words in [
        (dti(magnitude=[1]), r"method\.magnitude is \[1\]: mean, min, max, median or a number above 0 is needed"),
        (dti(learn_magnitude="no"), r"method\.learn_magnitude is no: true or false is needed"),
        (dti(magnitude_lr=None), r"method\.magnitude_lr is null: a number above 0 is needed"),
        (dti(prior=3), r"method\.prior is 3: a node with a _target_ of the kind Prior is needed"),
        (
            dti(prior={"_target_": "dti_repro.losses.priors.VonMisesFisher", "kappa": "x"}),
            r"method\.prior\.kappa is x: ",
        ),
        (dti(rank=3), "no such key: method: DTI: got an unexpected keyword argument 'rank'"),
        (dti(_partial_=True), r"method\._partial_: only _target_ may begin with an underscore"),
    ]:
        with pytest.raises(InputError, match=words):
            build(node, TokenMethod, "method")
    adamw = {"_target_": "torch.optim.AdamW", "lr": -1.0}
    with pytest.raises(InputError, match="optim: AdamW does not take these settings: Invalid learning rate: -1"):
        build(adamw, Optimizer, "optim", params=[torch.ones(1, requires_grad=True)])


GROUPS = {
    "adapter": Adapter,
    "adapter/objective": Objective,
    "backbone": Backbone,
    "concepts": ConceptSet,
    "device": Device,
    "logger": Logger,
    "method": TokenMethod | DerivedMethod,
    "norm_control": NormControl,
    "metric": ScoreMetric,
    "optim": Optimizer,
    "prior": Prior,
    "source": Source,
    "stage": Stage,
}


def test_what_the_configurations_name_is_taken_by_the_kind_of_their_group() -> None:
    root, found = Path(__file__).parents[2] / "conf", 0
    for path in root.rglob("*.yaml"):
        content = yaml.safe_load(path.read_text()) or {}
        node = content.get("network", content)
        if node.get("_target_", "???") != "???":  # which the user gives
            assert callable(target(node["_target_"], GROUPS[str(path.parent.relative_to(root))])), path
            found += 1
    assert found > 40
    for other in set(GROUPS) - {"method"}:
        with pytest.raises(InputError, match="refused"):
            target("dti_repro.methods.textual_inversion.TextualInversion", GROUPS[other])


def test_a_training_asked_to_run_code_runs_none(training: Training, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (mark,)

    (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil()))
    for key in ("logger", "optim", "method.prior", "concepts"):
        cfg = training()
        node = {"_target_": "torch.load", "f": str(tmp_path / "x.pt"), "weights_only": False, "lr": 0.1}
        OmegaConf.update(cfg, key, OmegaConf.create(node), merge=False, force_add=True)
        with pytest.raises(InputError, match=r"_target_ 'torch\.load' is refused"):
            train(cfg)
    assert not mark.exists()


def test_checkpoints_are_no_pickles_and_of_bounded_size_and_without_one_it_starts_again(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(training(f"runs={tmp_path / 'whole'}"))[0]
    stop_after(monkeypatch, step=3)
    with pytest.raises(MemoryError):
        train(training("trainer.checkpoint_every=2"))
    monkeypatch.undo()
    path = run_folder(training()).concept("ann").checkpoint
    whole = path.read_bytes()
    for content in (pickle.dumps({"step": Path("x")}), whole[:-100], b"", pickle.dumps({"step": 2})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"last\.ckpt cannot be read; remove it") as error:
            train(training())
        assert "\n" not in str(error.value)
    torch.save({"step": 3, "parameters": {}}, path)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        train(training())
    path.write_bytes(whole)
    monkeypatch.setattr(concept_state, "MAX_CHECKPOINT", 10)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        train(training())
    path.unlink()
    assert_same(train(training())[0], expected)


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "hut\u00fc", "a b", ".x", "-x", "n" * 300, "x\n"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(InputError, match="concept"):
        Concept(name, "<x>", "cat", ())


def test_prompts_and_placeholders_are_text_and_never_a_path(
    of_photos: Training, compose: Training, tmp_path: Path
) -> None:
    """300 characters of any script may stand in a word, and slashes in a prompt: files are called by numbers."""
    photos = tmp_path / "deep" / "photos"
    photos.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(photos / "a.png")
    word = "<" + "x" * 300 + "\u732b>"
    runs = f"runs={tmp_path / 'deep' / 'runs'}"
    with pytest.raises(InputError, match=r"placeholder '<\.\./x>': write it as <name>, of letters, digits and"):
        train(of_photos(photos, runs, "trainer.steps=1", name="rex", placeholder="<../x>"))
    (folder,) = train(of_photos(photos, runs, "trainer.steps=1", name="rex", placeholder=word))
    assert load_embedding(folder.embedding)[0] == word
    texts = ["a {} /../../etc/passwd", "\u732b {} " + "y" * 300]
    asked = f"prompts={json.dumps(texts, ensure_ascii=False)}"
    overrides = [f"run={folder.path}", "steps=1", "backbone.name=toybox", asked, "prompts_long=cut"]
    (drawn,) = generate(compose("generate", *overrides))
    assert sorted(p.name for p in drawn.iterdir()) == ["lock", "manifest.json", "p000_s0.png", "p001_s0.png"]
    assert Manifest.read(drawn / "manifest.json").images[0].text == "a cat /../../etc/passwd"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["photos", "runs"]


def test_names_in_commands_stay_in_their_folder(compose: Training, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "runs", {"rex": vectors(0), **{f"{c}{'n' * 99}": vectors(1) for c in "abc"}})
    for override, words in {
        "backbone.name=../x": "backbone.name",
        "snapshot='../x'": "snapshot is ../x",
        "prompts=['" + " ".join(f"{{{c}{'n' * 99}}}" for c in "abc") + "']": "at most 255",
    }.items():
        more = [] if override.startswith("prompts") else ["prompts=['a {}']"]
        with pytest.raises(InputError, match=words):
            generate(compose("generate", f"run={run}", *more, override))


def test_secrets_come_into_no_file(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, override in {
        "+logger.api_key": "+logger.api_key=s3cr3t",
        "+logger.password": "+logger.password=s3cr3t",
        "++logger.settings.auth_token": "++logger.settings.auth_token=s3cr3t",
        "logger.api_key": "train=[trainer.steps=4,logger.api_key=s3cr3t]",  # as a benchmark takes it
        "api_key": "+logger.settings={mode: offline, api_key: s3cr3t}",
    }.items():
        monkeypatch.setattr(sys, "argv", ["train", "-m", override, f"runs={tmp_path}"])
        with pytest.raises(SystemExit) as left:
            train_module.main()
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {key}: ")
        assert "s3cr3t" not in said
    for override in ("+logger.api_key=s3cr3t", "+logger.settings=[{api_key: s3cr3t}]"):
        with pytest.raises(InputError, match=r"^logger\.(settings\.0\.)?api_key: ") as error:
            train(training(override))
        assert "s3cr3t" not in str(error.value)
    assert not list(tmp_path.rglob("*"))
    pytest.importorskip("wandb")
    secret = "5" * 40
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(training("logger=wandb", "trainer.steps=2"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in written)
    assert not [path for path in written if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("prompts/x.yaml", "# @package _global_\nhydra:\n  launcher: {_target_: os.system}\n"),
        ("prompts/x.yaml", '# @package _global_\n"\\x68ydra":\n  launcher: {_target_: os.system}\n'),
        ("prompts/x.yaml", "# @package _global_\n<<: {hydra: {sweeper: {params: {seed: 1}}}}\n"),
        ("prompts/x.yaml", "# @package hydra.launcher\nn_jobs: 7\n"),
        ("prompts/x.yaml", "# @package _global_.hydra.job.env_set\nPATH: /tmp\n"),
        ("prompts/x.yaml", "defaults: [{override /hydra/launcher: local}]\n"),
        ("prompts/x.yaml", "defaults: [{/prompts@_global_.hydra.callbacks: y}]\n"),
        ("prompts/hydra.yaml", "# @package _name_\nsearchpath: [/tmp]\n"),
        ("hydra/launcher/x.yaml", "_target_: os.system\n"),
        ("hydra/job_logging/x.yaml", "formatters: {x: {(): os.system}}\n"),
    ],
)
def test_a_configuration_from_elsewhere_changes_nothing_that_hydra_runs(
    file: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(content)
    for flags in ([], ["-m"]):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train", *flags, f"--config-dir={tmp_path}"])
        with pytest.raises(SystemExit) as left:
            train_module.main()
        assert left.value.code == 2
        error = capfd.readouterr().err
        assert error == (
            f"error: --config-dir {tmp_path}: {file}: it changes hydra's settings, which can run code: "
            "give them on the command line\n"
        )
        assert not (tmp_path / "runs").exists()
