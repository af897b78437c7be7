"""Training as its user sees it: what the keys do, and what the files of a run say."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from omegaconf import DictConfig
from torch import nn

from dti_repro.artifacts.embedding import load_embedding, save_embeddings
from dti_repro.artifacts.run_dir import ConceptFolder, finished_concepts
from dti_repro.backbones.load import _load, load_backbone
from dti_repro.config import build
from dti_repro.data.concept import ConceptSet
from dti_repro.errors import InputError
from dti_repro.losses.priors import L2ToInitial
from dti_repro.methods.textual_inversion import TextualInversion
from dti_repro.training.concept_state import COLUMNS
from dti_repro.training.lit_module import InversionModule
from dti_repro.training.runs import hashed, run_folder
from dti_repro.training.train_missing import train, train_missing

Training = Callable[..., DictConfig]


def vectors(folder: ConceptFolder) -> torch.Tensor:
    return load_embedding(folder.embedding)[1]


def log(folder: ConceptFolder) -> list[dict[str, float]]:
    with folder.log.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_log_says_of_each_step_what_happened(training: Training) -> None:
    folder = train(training("method=dti", "trainer.steps=8"))[0]
    rows = log(folder)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["step"] for row in rows] == list(range(1, 9))
    # A step turns by arctan(lr): the first leaves the initializer by just that.
    assert rows[0]["angle"] == pytest.approx(math.atan(0.04), rel=1e-3)
    assert all(row["norm"] == pytest.approx(vectors(folder).norm().item(), rel=1e-5) for row in rows)
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)


def test_only_what_can_change_a_vector_changes_the_folder(training: Training) -> None:
    same = ["trainer.threads=2", "trainer.pack=1", "trainer.preview_every=5", "concepts.names=[bob]", "optim.lr=4e-2"]
    other = ["optim.lr=0.05", "trainer.steps=7", "trainer.accumulate=2", "method.prior.kappa=0", "method.init=random"]
    here = run_folder(training()).path
    assert {run_folder(training(key)).path for key in same} == {here}
    assert len({run_folder(training(key)).path for key in [*other, "seed=1", "seed=42"]}) == len(other) + 2


def test_answers_without_importing_torch(training: Training) -> None:
    """What is done is said within a second; imports of torch and its friends alone take several."""
    cfg = training()
    train(cfg)
    code = "import sys, dti_repro.train; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
    places = [f"backbone.path={cfg.backbone.path}", f"concepts.root={cfg.concepts.root}", f"runs={cfg.runs}"]
    overrides = [*places, "trainer.steps=6", "trainer.batch=2"]
    command = [sys.executable, "-X", "importtime", "-m", "dti_repro.train", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "done: " in done.stdout
    assert "| torch\n" not in done.stderr


def test_a_process_loads_the_model_once_however_many_packs_it_trains(training: Training) -> None:
    _load.cache_clear()
    train(training("concepts.names=all", "trainer.pack=1", "trainer.steps=1"))
    train(training("method=ti", "trainer.steps=1"))
    assert _load.cache_info().misses == 1


def test_accumulated_passes_are_one_larger_batch(training: Training) -> None:
    """The same samples in one pass of 4 and two of 2: as many optimizer steps, the same vectors up to rounding."""
    whole = train(training("trainer.batch=4"))[0]
    halves = train(training("trainer.batch=2", "trainer.accumulate=2"))[0]
    assert len(log(whole)) == len(log(halves)) == 6
    torch.testing.assert_close(vectors(whole), vectors(halves), atol=1e-5, rtol=1e-4)


def test_ti_rescaled_is_tis_vector_at_the_vocabularys_norm(training: Training) -> None:
    derived = train(training("method=ti_rescaled"))[0]
    ti = run_folder(training("method=ti")).concept("ann")
    assert ti.is_done()
    stamp = ti.embedding.stat().st_mtime_ns
    shorter = train(training("method=ti_rescaled", "method.magnitude=0.1"))[0]
    assert ti.embedding.stat().st_mtime_ns == stamp
    direction = torch.nn.functional.normalize(vectors(ti), dim=-1)
    torch.testing.assert_close(vectors(shorter), 0.1 * direction)
    torch.testing.assert_close(torch.nn.functional.normalize(vectors(derived), dim=-1), direction)
    save_embeddings(ti.embedding, "<ann>", {"": -vectors(ti)}, {})  # as if it had been trained again, and otherwise
    again = train(training("method=ti_rescaled"))[0]
    torch.testing.assert_close(torch.nn.functional.normalize(vectors(again), dim=-1), -direction)


@pytest.mark.parametrize(
    "keys",
    [
        ("method=dti", "method.prior.kappa=5e-4", "method.magnitude=5.0"),
        ("method=dti", "method.init=random", "optim.tangent=false", "optim.beta=0.9"),
        ("method=dti", "method.learn_magnitude=true", "method.init=vocab_mean"),
        ("method=dti", "optim=adamw_projected", "method.prior.kappa=0"),
        ("method=ti", "method.init=vocab_mean", "optim.weight_decay=0"),
        ("method=crossinit", "method.prior.distance=mse"),
        ("method=dti", "trainer.precision=bf16"),
    ],
    ids=" ".join,
)
def test_knobs_train(keys: tuple[str, ...], training: Training) -> None:
    assert bool(torch.isfinite(vectors(train(training(*keys, "trainer.steps=3"))[0])).all())


def test_vectors_that_are_normalised_at_the_end_run_free_until_then(training: Training, tmp_path: Path) -> None:
    """A snapshot on the way is normalised, too, and changes nothing behind it. The other kind has the old run."""
    keys = ["method=dti", "optim=adamw_projected", "optim.normalise=at_end", "trainer.checkpoint_every=2"]
    plain = train(training(*keys, f"runs={tmp_path / 'plain'}"))[0]
    folder = train(training(*keys, "trainer.snapshots=[3]"))[0]
    magnitude = log(train(training("method=dti"))[0])[0]["norm"]
    assert abs(log(folder)[2]["norm"] / magnitude - 1) > 0.01
    for path in (folder.snapshot(3), folder.embedding):
        assert load_embedding(path)[1].norm(dim=-1).item() == pytest.approx(magnitude, rel=1e-6)
    assert folder.embedding.read_bytes() == plain.embedding.read_bytes()
    assert folder.checkpoint.read_bytes() == plain.checkpoint.read_bytes()
    each_step = training("method=dti", "optim=adamw_projected")
    assert "normalise" not in hashed(each_step)["optim"]
    assert run_folder(each_step) != run_folder(training(*keys))


def test_a_learned_magnitude_moves_and_stays_positive(training: Training) -> None:
    rows = log(train(training("method.learn_magnitude=true", "method.magnitude_lr=0.5"))[0])
    assert len({row["norm"] for row in rows}) == len(rows)
    assert all(row["norm"] > 0 for row in rows)


def test_a_strong_prior_pulls_back_to_the_initializer(training: Training) -> None:
    start = "method.init=random"
    free = log(train(training(start, "method.prior.kappa=0", "trainer.steps=20"))[0])
    pulled = log(train(training(start, "method.prior.kappa=100", "trainer.steps=20"))[0])
    assert pulled[-1]["angle"] < free[-1]["angle"] - 0.3
    assert pulled[-1]["angle"] == pytest.approx(pulled[0]["angle"] - 19 * math.atan(0.04), abs=0.02)


def test_a_fit_moves_nothing_of_the_backbone(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning moves its module to the CPU when it is done, and the next pack would train there."""
    backbone = load_backbone(training().backbone, "cpu")
    moved, move = [], nn.Module._apply

    def spy(self: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        moved.append(self)
        return move(self, *arguments, **options)

    monkeypatch.setattr(nn.Module, "_apply", spy)
    train(training("concepts.names=[ann,bob]", "trainer.pack=1", "trainer.steps=1"))
    assert any(isinstance(module, InversionModule) for module in moved)
    assert not set(backbone.modules()) & set(moved)


@pytest.mark.parametrize("layers", [1, 99])
def test_vectors_that_would_not_be_trained_are_refused(
    layers: int, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two vectors for an initializer of one token; one that differs by layer."""
    start, forward = TextualInversion.parameters_of, TextualInversion.forward
    if layers == 1:
        twice = lambda *a: nn.ParameterDict({k: v.repeat(2, 1) for k, v in start(*a).items()})  # noqa: E731
        monkeypatch.setattr(TextualInversion, "parameters_of", twice)
    else:
        monkeypatch.setattr(
            TextualInversion, "forward", lambda *a: {k: v.repeat(1, layers, 1, 1) for k, v in forward(*a).items()}
        )
    words = {1: "2 vectors for concept 'ann'.* reads 1", 99: "vectors for 99 layers, and toybox has"}
    with pytest.raises(InputError, match=words[layers]):
        train(training("method=ti"))


def test_ti_beside_an_adapter_trains_its_token_at_the_published_rate(training: Training) -> None:
    for method, adapter, rate in [
        ("ti", "none", 0.02),
        ("ti", "lora", 5e-5),
        ("ti", "oft", 5e-5),
        ("ti_rescaled", "oft", 5e-5),
        ("dti", "lora", 0.04),
    ]:
        assert training(f"method={method}", f"adapter={adapter}").optim.lr == rate
    assert training("method=ti", "adapter=lora", "optim.lr=1e-3").optim.lr == 1e-3


def test_crossinits_prior_is_a_mean_over_vectors() -> None:
    vectors, anchor = torch.zeros(2, 4), torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 4]])
    assert L2ToInitial(1.0, "unsquared")(vectors, anchor) == 3
    assert L2ToInitial(1.0, "mse")(vectors, anchor) == 2.5


def test_times_and_hosts_live_in_the_provenance_alone(training: Training) -> None:
    folder = train(training())[0]
    provenance = json.loads(folder.provenance.read_text())
    assert {"began", "seconds", "host", "versions", "threads", "device", "config"} <= provenance.keys()
    assert provenance["config"]["optim"]["lr"] == 0.04
    places = folder.seed_folder, folder.seed_folder.parent, folder.path, folder.embedding
    assert [finished_concepts(place) for place in places] == [[folder]] * 4


@pytest.mark.parametrize("method", ["dti", "ti_rescaled"])
def test_the_commit_that_main_was_is_in_the_provenance(
    method: str, training: Training, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of the Hub, as its cache keeps it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, model = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--someone--tiny"
    for folder in ("refs", "snapshots"):
        (model / folder).mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).symlink_to(checkpoint)
    (folder,) = train(training(f"method={method}", "backbone.path=someone/tiny", "trainer.steps=1"))
    provenance = json.loads(folder.provenance.read_text())
    assert provenance["checkpoint"]["commit"] == commit
    assert provenance["config"]["backbone"]["revision"] == "main"


def test_previews_show_the_held_out_prompts(training: Training) -> None:
    folder = train(training("trainer.preview_every=3"))[0]
    assert sorted(p.name for p in folder.previews.iterdir()) == ["step_000003.png", "step_000006.png"]


def test_rescaling_words_that_differ_by_layer_is_refused_before_they_are_trained(training: Training) -> None:
    with pytest.raises(InputError, match="'p_plus' learns other vectors for each layer"):
        train(training("method=ti_rescaled", "method@method.source=p_plus"))
    assert not list(Path(training().runs).rglob("last.ckpt"))


def test_a_preview_of_an_unknown_word_is_refused_before_the_first_step(training: Training) -> None:
    with pytest.raises(InputError, match="<mug>"):
        train(training("trainer.preview_every=4", "trainer.preview_prompts=['a {} beside <mug>']"))
    assert not list(Path(training().runs).rglob("last.ckpt"))


def test_the_gradients_norm_is_a_words_own_beside_a_longer_one(training: Training) -> None:
    """Words with fewer vectors are padded where a pack is one pass."""
    cfg = training("method=prospect", "concepts.names=[ann,bob]", "trainer.steps=1", "trainer.fuse=true")
    concepts = [
        c if c.name == "ann" else replace(c, initializer="red car") for c in build(cfg.concepts, ConceptSet).load()
    ]
    fused = [log(folder)[0]["grad_norm"] for folder in train_missing(cfg, concepts)[0]]
    cfg.runs = f"{cfg.runs}_alone"
    cfg.trainer.fuse = False
    assert fused == pytest.approx([log(folder)[0]["grad_norm"] for folder in train_missing(cfg, concepts)[0]], rel=1e-3)
