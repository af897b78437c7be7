"""How many vectors a word has, where they start, and what is done to them after each step, with any method."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch.nn.functional import normalize

from dti_repro.artifacts.embedding import load_embedding, load_embeddings, save_embeddings
from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.run_dir import embedding_files, read_header
from dti_repro.backbones.base import EncoderSpec
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.sdxl import StableDiffusionXL
from dti_repro.backbones.stable_diffusion import ENCODER, StableDiffusion
from dti_repro.errors import InputError
from dti_repro.launch.failures import choices
from dti_repro.methods.norm_controls import KeepNorm, MatchSpread, PullToNorm
from dti_repro.methods.word_files import load_word
from dti_repro.training.train_missing import train
from tests.contract.test_methods import METHODS, ONE_CODE
from tests.tiny import build_tiny_sdxl
from tests.tiny_flow import build_tiny_sana

TRAINED = [name for name in choices("method") if name not in (*ONE_CODE, "ti_rescaled")]  # the last has no training
PATH_INIT = ["ti", "dti"]
Training = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_draws_on_sdxl_and_leaves_it_as_it_was(
    name: str, training: Training, sdxl: Path
) -> None:
    """Two text encoders of other widths. Packed is alone, to the bit."""
    own = [f"method={name}", "backbone=sdxl", f"backbone.path={sdxl}", "backbone.resolution=32"]
    own += ["backbone.dtype=float32", "trainer.steps=2"]
    backbone = load_backbone(training(*own).backbone, "cpu")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    packed = train(training(*own, "concepts.names=[ann,bob]"))
    alone = train(training(*own, "concepts.names=[bob]", f"runs={packed[0].path / 'alone'}"))
    words = [load_word(folder.embedding, backbone.spec) for folder in (packed[1], alone[0])]
    for t in (torch.tensor([0]), torch.tensor([999])):
        both = [word.at(t) for word in words]
        assert list(both[0]) == list(backbone.spec.encoders)
        assert all(torch.equal(*pair) for pair in zip(*(rows.values() for rows in both), strict=True))
    assert backbone.generate(["a <bob>"], {"<bob>": words[0]}, [0], steps=1, guidance=3.0, height=32, width=32)
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", TRAINED)
def test_any_number_of_vectors_is_trained_each_at_its_place(
    name: str, training: Training, backbone: StableDiffusion
) -> None:
    """The initializer of ann has one token: copies of it differ a little, or their gradients would be equal."""
    folder = train(training(f"method={name}", "method.vectors=3", "trainer.steps=2"))[0]
    word = load_word(folder.embedding, backbone.spec)
    assert word.count == 3
    (rows,) = word.at(torch.tensor([500])).values()
    rows = rows[0, 0]
    assert rows.shape[0] == 3
    assert len({tuple(row.tolist()) for row in rows}) == 3


def test_each_vector_is_once_in_a_prompt_in_order_and_gets_a_gradient(sdxl: Path) -> None:
    backbone = StableDiffusionXL("sdxl", str(sdxl), 32)
    tokens = backbone.tokenize(["a photo of a <x> on grass"], {"<x>": 4})
    rows = {n: torch.randn(1, 1, 4, e.dim, requires_grad=True) for n, e in backbone.spec.encoders.items()}
    for positions in tokens.positions.values():
        assert [place for place in positions[0].tolist() if place >= 0] == [0, 1, 2, 3]
    conditioning = backbone.encode_text(tokens, rows)
    (conditioning.hidden.square().sum() + conditioning.pooled.sum()).backward()
    for row in rows.values():
        assert bool(row.grad.any(dim=-1).all())


def test_a_longer_initializer_is_cut_and_says_so(
    training: Training, subjects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(subjects, tmp_path / "subjects")
    index = yaml.safe_load((root / "subjects.yaml").read_text())
    index["bob"]["initializer"] = "red car"
    (root / "subjects.yaml").write_text(yaml.safe_dump(index))
    cfg = training(f"concepts.root={root}", "concepts.names=[bob]", "method.vectors=1", "trainer.steps=1")
    start = normalize(load_backbone(cfg.backbone, "cpu").embed_initializer("bob", "red", 42).rows[ENCODER], dim=-1)
    (folder,) = train(cfg)
    assert (
        "bob: method.vectors=1 takes the first of the 2 vectors of the initializer 'red car'" in capsys.readouterr().out
    )
    learned = normalize(load_embedding(folder.embedding)[1], dim=-1)
    assert (learned * start).sum().item() == pytest.approx(np.cos(np.arctan(0.04)), abs=1e-5)


@pytest.mark.parametrize("name", PATH_INIT)
def test_a_training_goes_on_from_a_run_or_a_file(name: str, training: Training, tmp_path: Path) -> None:
    first = train(training("method=ti", "concepts.names=[ann,bob]"))
    learned = load_embedding(first[1].embedding)[1]
    keys = [f"method={name}", "concepts.names=[bob]", "trainer.steps=1", "optim.lr=1e-9"]
    again = train(training(*keys, f"method.init={first[1].seed_folder}", "method.vectors=null"))[0]
    assert read_json(again.metadata, "")["start"]
    theirs = tmp_path / "theirs.safetensors"
    save_embeddings(theirs, "<other>", {"": learned}, {})
    from_file = train(training(*keys, f"method.init={theirs}"))[0]
    for folder in (again, from_file):
        found = load_embedding(folder.embedding)[1]
        torch.testing.assert_close(normalize(found, dim=-1), normalize(learned, dim=-1), atol=1e-5, rtol=1e-5)
    save_embeddings(theirs, "<other>", {"": learned + 1}, {})
    with pytest.raises(InputError, match=r"concept 'bob' is not the one .* \(changed: start\)"):
        train(training(*keys, f"method.init={theirs}"))


def test_a_contextual_start_is_where_crossinit_starts(training: Training) -> None:
    """Without its prior, CrossInit is TI from there."""
    chosen = ["concepts.names=[ann]", "trainer.steps=2"]
    ti = train(training("method=ti", "method.init=contextual", *chosen))[0]
    crossinit = train(training("method=crossinit", "method.prior.weight=0", *chosen))[0]
    assert torch.equal(load_embedding(ti.embedding)[1], load_embedding(crossinit.embedding)[1])


@pytest.mark.parametrize("name", ["p_plus", "prospect", "neti"])
def test_a_backbone_without_a_unet_says_so_before_it_is_loaded(
    name: str, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny_sana(tmp_path / "sana")
    monkeypatch.setattr("dti_repro.training.trainer.load_backbone", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=rf"method '{name}' needs .*, and backbone 'sana_1600m' has none"):
        train(training(f"method={name}", "backbone=sana_1600m", f"backbone.path={folder}", "backbone.resolution=32"))


def test_what_one_list_of_vectors_cannot_say_is_not_exported(training: Training) -> None:
    (folder,) = train(training("method=p_plus", "trainer.steps=1"))
    assert list(embedding_files(folder.embedding)) == [""]
    assert read_header(folder.embedding)["vectors"] == "1"
    with pytest.raises(InputError, match="p_plus learns other vectors for each layer or timestep"):
        load_embeddings(folder.embedding)


TABLE = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 3.0]])
SPEC = EncoderSpec.of(TABLE)


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (KeepNorm("mean"), [[1.8, 2.4], [3.0, 0.0]]),
        (KeepNorm("median"), [[1.8, 2.4], [3.0, 0.0]]),
        (KeepNorm("initializer"), [[0.6, 0.8], [2.0, 0.0]]),
        (KeepNorm(0.5), [[0.3, 0.4], [0.5, 0.0]]),
        (PullToNorm(0.4, 100.0), [[3 * 0.9 + 0.024, 4 * 0.9 + 0.032], [0.9 * 2 + 0.04, 0.0]]),
        (PullToNorm(0.4, 1e6), [[0.24, 0.32], [0.4, 0.0]]),
    ],
)
def test_a_norm_control_keeps_directions_and_sets_norms(control, expected: list[list[float]]) -> None:
    """Closed forms, at a learning rate of .001."""
    vectors, rows = torch.tensor([[3.0, 4.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    torch.testing.assert_close(control(vectors, rows, SPEC, 0.001), torch.tensor(expected))


def test_matching_the_spread_scales_by_a_power_of_the_ratio() -> None:
    assert SPEC.std == pytest.approx(TABLE.std(correction=0).item())
    vectors = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    matched = MatchSpread(1.0)(vectors, vectors, SPEC, 0.1)
    assert matched.std().item() == pytest.approx(SPEC.std, rel=1e-5)
    tenth = MatchSpread(0.1)(vectors, vectors, SPEC, 0.1)
    torch.testing.assert_close(tenth, vectors * (SPEC.std / vectors.std()) ** 0.1)


@pytest.mark.parametrize(("name", "kept"), [("ti_mean_norm", "mean"), ("ti_median_norm", "median")])
def test_the_kept_norm_is_that_of_the_saved_vectors(
    name: str, kept: str, training: Training, backbone: StableDiffusion
) -> None:
    (folder,) = train(training(f"method={name}", "trainer.steps=3"))
    norms = backbone.spec.encoders[ENCODER].norms
    assert load_embedding(folder.embedding)[1].norm().item() == pytest.approx(norms[kept], rel=1e-5)
