"""What every adapter must keep, found by its yaml."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from dti_repro.adapters.folder import WEIGHTS, adapter_files, adapter_folder
from dti_repro.artifacts.embedding import load_embedding, save_embeddings
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.load import load_backbone
from dti_repro.data.concept import PUBLISHED
from dti_repro.errors import DivergedError, InputError
from dti_repro.evaluate import evaluate
from dti_repro.generate import generate
from dti_repro.launch.failures import choices
from dti_repro.training.runs import run_folder
from dti_repro.training.train_missing import train
from tests.composed import composed
from tests.crash import assert_same, stop_after

ADAPTERS = choices("adapter")
TRAINED = [name for name in ADAPTERS if name != "none"]
Training = Callable[..., DictConfig]


def drawn(compose: Callable[..., DictConfig], folder: Path, *more: str) -> bytes:
    """The first picture of a run."""
    prompts = 'prompts=["a {} on the beach", "a red {}"]'
    (images,) = generate(compose("generate", f"run={folder}", prompts, "steps=2", *more))
    return (images / "p000_s0.png").read_bytes()


def weights(folder: ConceptFolder) -> dict[str, Tensor]:
    return load_file(adapter_folder(folder.embedding) / WEIGHTS)


def same_adapter(a: Path, b: Path) -> bool:
    files, others = adapter_files(adapter_folder(a)), adapter_files(adapter_folder(b))
    return [(f.name, f.read_bytes()) for f in files] == [(f.name, f.read_bytes()) for f in others] and bool(files)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("objective", choices("adapter/objective"))
def test_the_adapter_learns_beside_the_word_and_the_model_stays_as_it_was(
    name: str, objective: str, training: Training
) -> None:
    cfg = training(f"adapter={name}", f"adapter/objective={objective}", "trainer.steps=2")
    backbone = load_backbone(cfg.backbone, "cpu")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    folder = train(cfg)[0]
    after = backbone.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())
    learned = weights(folder)
    assert {rows.dtype for rows in learned.values()} == {torch.float32}
    grown = {key: rows for key, rows in learned.items() if "lora_A" not in key}  # the rest starts at zero
    assert grown
    assert all(bool(rows.any()) for rows in grown.values())
    vectors = load_embedding(folder.embedding)[1]
    assert not torch.equal(vectors, backbone.embed_initializer("ann", "cat", 42).rows["text_encoder"])


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_weights_get_a_float32_adapter(name: str, training: Training) -> None:
    learned = weights(train(training(f"adapter={name}", "backbone.dtype=bfloat16", "trainer.steps=1"))[0])
    assert {rows.dtype for rows in learned.values()} == {torch.float32}
    (moved, *_) = (rows for key, rows in sorted(learned.items()) if "lora_A" not in key)
    assert not torch.equal(moved, moved.bfloat16().float())


@pytest.mark.parametrize("name", TRAINED)
def test_interrupted_is_uninterrupted_to_the_byte(
    name: str, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = [f"adapter={name}", "trainer.snapshots=[2]"]
    whole = train(training(*ask, f"runs={tmp_path / 'whole'}"))[0]
    again = training(*ask, "trainer.checkpoint_every=2")
    stop_after(monkeypatch, step=5)
    with pytest.raises(MemoryError):
        train(again)
    monkeypatch.undo()
    resumed = train(again)[0]
    assert_same(resumed, whole)
    assert same_adapter(resumed.embedding, whole.embedding)
    assert same_adapter(resumed.snapshot(2), whole.snapshot(2))
    assert not same_adapter(resumed.snapshot(2), resumed.embedding)


def test_the_run_folder_tells_adapters_apart_and_knows_those_without_as_before(training: Training) -> None:
    plain = training()
    bare = OmegaConf.create(OmegaConf.to_container(plain, resolve=True))
    bare.adapter = {"_target_": "any without settings"}
    keys = [["adapter=lora"], ["adapter=lora", "adapter.rank=8"], ["adapter=lora", "adapter.lr=1e-4"], ["adapter=oft"]]
    keys += [["adapter=lora", "adapter/objective=diffusion"], ["adapter=lora", "adapter.objective.prompt=class"]]
    hashes = {run_folder(training(*key)).config_hash for key in keys}
    assert len(hashes) == len(keys)
    assert run_folder(plain).config_hash == run_folder(bare).config_hash
    assert run_folder(plain).config_hash not in hashes


def test_a_pack_is_one_concept(training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["adapter=lora", "concepts.names=[ann,bob]", "trainer.steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("a model was loaded"))
        with pytest.raises(InputError, match=r"a pack would have 2: add trainer\.pack=1") as error:
            train(training(*both))
        assert "\n" not in str(error.value)
    _, bob = train(training(*both, "trainer.pack=1"))
    alone = train(training("adapter=lora", "concepts.names=[bob]", "trainer.steps=2", f"runs={tmp_path / 'alone'}"))[0]
    assert_same(bob, alone)
    assert same_adapter(bob.embedding, alone.embedding)


@pytest.mark.parametrize("name", TRAINED)
def test_pictures_are_drawn_with_the_adapter_of_their_word_and_scored(
    name: str, training: Training, subjects: Path, tmp_path: Path, compose: Callable[..., DictConfig]
) -> None:
    """Beside a run without one, whose pictures it must not touch; a snapshot is drawn with its own."""
    keys = ["trainer.steps=3", "trainer.snapshots=[1]"]
    plain = train(training(*keys))[0]
    first = drawn(compose, plain.path)
    adapted = train(training(*keys, f"adapter={name}", "adapter.lr=0.05"))[0]
    # The same word for both: what differs is the adapter.
    shutil.rmtree(plain.images)
    own = load_embedding(adapted.embedding)
    save_embeddings(plain.embedding, own[0], {"": own[1]}, {})
    with_adapter, without = drawn(compose, adapted.path), drawn(compose, plain.path)
    assert with_adapter != without
    assert drawn(compose, adapted.path, "snapshot=1") != with_adapter
    shutil.rmtree(adapted.images)
    assert drawn(compose, adapted.path) == with_adapter
    save_embeddings(
        plain.embedding, own[0], {"": load_embedding(plain.snapshot(1))[1]}, {}
    )  # none of that clings to the model
    train(training(*keys, f"runs={tmp_path / 'again'}"))
    assert drawn(compose, tmp_path / "again" / plain.path.relative_to(tmp_path / "runs")) == first
    ask = [f"run={adapted.path}", f"concepts.root={subjects}", "metrics=[toybox_image]", "accelerator=cpu"]
    evaluate(composed("evaluate", *ask))
    (scores,) = (adapted.path / "scores").glob("*.csv")
    assert len(scores.read_text().splitlines()) == 1 + 2


def test_a_rescaled_word_keeps_the_adapter_that_it_was_learned_with(
    training: Training, compose: Callable[..., DictConfig]
) -> None:
    keys = ["adapter=oft", "trainer.steps=2", "trainer.snapshots=[1]"]
    rescaled = train(training("method=ti_rescaled", *keys))[0]
    source = train(training("method=ti", *keys))[0]
    assert same_adapter(rescaled.embedding, source.embedding)
    assert same_adapter(rescaled.snapshot(1), source.snapshot(1))
    drawn(compose, rescaled.path)


def test_at_rate_zero_the_words_stay_and_the_adapter_learns(training: Training, subjects: Path) -> None:
    """DreamBooth's way: the placeholder stands for the words that it started from."""
    own = ["adapter=oft", "method=ti", "optim.lr=0", "concepts=folder"]
    shared = OmegaConf.to_container(training("trainer.steps=2"))
    words = [f"concepts.path={subjects / 'ann'}", 'concepts.initializer="red cat"', "concepts.class_word=cat"]
    cfg = composed("train", *own, *words, f"backbone.path={shared['backbone']['path']}")
    cfg.runs, cfg.trainer = shared["runs"], shared["trainer"]
    folder = train(cfg)[0]
    start = load_backbone(cfg.backbone, "cpu").embed_initializer("ann", "red cat", 42).rows["text_encoder"]
    assert torch.equal(load_embedding(folder.embedding)[1], start)
    assert all(bool(rows.any()) for rows in weights(folder).values())
    assert json.loads(folder.metadata.read_text())["class_word"] == "cat"


def test_dreambooths_own_words_are_a_rare_one_before_the_class() -> None:
    entries = yaml.safe_load((PUBLISHED / "dreambooth.yaml").read_text())
    assert {entry["sks"] for entry in entries.values()} == {f"sks {entry['class']}" for entry in entries.values()}


def test_a_spoiled_adapter_stops_the_training_before_its_step(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dti_repro.adapters.peft import PeftAdapter

    norms = iter([1.0, float("nan")])
    monkeypatch.setattr(PeftAdapter, "gradient_norm", lambda self: next(norms))
    with pytest.raises(DivergedError, match=r"at step 2.*after step 1 is kept"):
        train(training("adapter=lora"))


@pytest.mark.parametrize("name", ["prospect", "neti"])
def test_an_objective_that_reads_the_word_again_takes_a_method_of_timesteps(name: str, training: Training) -> None:
    """The reference pass has no gradient, and the vectors that are made for it have none either."""
    keys = ["adapter=lora", "adapter.objective.prompt=word", "trainer.pack=1", "trainer.steps=2"]
    (folder,) = train(training(f"method={name}", *keys))
    assert folder.is_done()
