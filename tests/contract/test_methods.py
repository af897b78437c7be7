"""What every method must keep, found by its yaml: nothing else has to be written for a new one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from dti_repro.artifacts.embedding import load_embedding
from dti_repro.artifacts.run_dir import ConceptFolder, read_header
from dti_repro.backbones.stable_diffusion import StableDiffusion
from dti_repro.config import CONF, build
from dti_repro.config.build import FOR_THE_RUN
from dti_repro.launch.failures import choices
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.methods.word_files import load_word
from dti_repro.training.callbacks import ConceptCheckpoint
from dti_repro.training.train_missing import train
from tests.crash import assert_same, stop_after
from tests.tiny import DIM

ONE_CODE = ("ti_initial_norm", "ti_median_norm", "ti_pulled_norm", "ti_spread")  # as ti_mean_norm, with other settings
METHODS = [pytest.param(name, marks=pytest.mark.slow if name in ONE_CODE else ()) for name in choices("method")]
GROUPS = ("norm_control", "optim", "prior", "backbone", "concepts", "source", "device", "adapter", "adapter/objective")
Training = Callable[..., DictConfig]


@pytest.mark.parametrize(
    "path",
    [p for group in GROUPS for p in sorted((CONF / group).glob("*.yaml")) if p.stem != "custom"],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_the_keys_of_a_yaml_are_its_constructors(path: Path) -> None:
    """A key that does nothing is a lie, and a default hidden in code is a second place to look."""
    node = OmegaConf.load(path)
    defaults = node.get("defaults", ())
    base = [item for item in defaults if isinstance(item, str) and item != "_self_"]
    node = OmegaConf.merge(*(OmegaConf.load(path.with_stem(item)) for item in base), node)
    keys = {str(key) for key in node} - {"_target_", "defaults", "generation"}  # generation: generate's defaults
    nodes = {str(key) for item in defaults if OmegaConf.is_dict(item) for key in item}
    keys |= {key for key in nodes if not key.startswith("override")}
    keys -= {"schedule", "warmup"} if path.parent.name == "optim" else set()  # what the trainer does with lr
    target = get_class(node._target_)
    settings = _settings(target) - {"params"}
    assert keys <= settings
    if not issubclass(target, torch.optim.AdamW):  # torch's has switches of implementation besides
        assert keys == settings
    if path.parent.name == "adapter":  # a run's hash tells adapters from none by their keys
        assert bool(keys) == (path.stem != "none")


@pytest.mark.parametrize("name", choices("method"))
def test_the_keys_of_a_method_are_its_constructors(name: str, training: Training) -> None:
    node = training(f"method={name}").method
    assert {str(key) for key in node} - {"_target_"} - FOR_THE_RUN == _settings(get_class(node._target_))


def _settings(target: type) -> set[str]:
    """What a constructor takes by name; where it passes others on, those of the one above, too."""
    names = set()
    for owner in target.__mro__[:-1]:  # of object none
        if "__init__" in vars(owner):
            _, *parameters = inspect.signature(owner.__init__).parameters.values()
            passed_on = {p.name for p in parameters if p.kind is p.VAR_KEYWORD}
            names |= {p.name for p in parameters} - passed_on
            if not passed_on:
                break
    return names


@pytest.mark.parametrize(
    "keys", [*([f"method={name}"] for name in choices("method")), ["method.learn_magnitude=true"]], ids=" ".join
)
def test_shapes_and_gradients(keys: list[str], training: Training, backbone: StableDiffusion) -> None:
    method = build(training(*keys).method, TokenMethod | DerivedMethod)
    method = method if isinstance(method, TokenMethod) else method.source
    method.initialise(
        [backbone.embed_initializer("a", "cat", 0), backbone.embed_initializer("b", "red car", 0)], backbone.spec
    )
    times = torch.linspace(0, 999, 20).long()  # so close that every stage of a method with stages is reached
    vectors = method(torch.tensor([0, 1]).repeat_interleave(20), times.repeat(2))
    assert vectors.keys() == backbone.spec.encoders.keys()
    layers = backbone.spec.layers if "layer" in method.depends_on else 1
    for rows in vectors.values():
        assert rows.shape[:3] == (40, layers, 2)
        assert rows.shape[3] in (DIM, 2 * DIM)  # twice: with a bypass
        if "timestep" not in method.depends_on:
            assert torch.equal(rows[20], rows[39])
    assert [method.prior_of(c).shape for c in range(2)] == [(), ()]
    logged = method.vectors(1)["text_encoder"]
    assert logged.shape[-2:] == (2, DIM)
    assert logged.dtype == torch.float32
    grouped = [p for group in method.param_groups() for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters()}
    assert {id(p) for c in method.concepts for p in c.parameters()} == {id(p) for p in method.parameters()}
    random = torch.Generator().manual_seed(0)
    loss = sum((rows * torch.randn(rows.shape, generator=random)).sum() for rows in vectors.values())
    for gradient in torch.autograd.grad(loss, list(method.parameters())):
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any(dim=-1).all())  # of each vector


@dataclass
class Packed:
    """The training of ann and bob, one pass for each."""

    name: str  # of the method
    ann: ConceptFolder
    bob: ConceptFolder
    learned: TokenMethod


@pytest.fixture(scope="module", params=METHODS)
def packed(
    request: pytest.FixtureRequest, short_training: Training, tmp_path_factory: pytest.TempPathFactory
) -> Packed:
    learned: list[TokenMethod] = []
    finish = ConceptCheckpoint._finish
    runs = f"runs={tmp_path_factory.mktemp(request.param)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConceptCheckpoint, "_finish", lambda self, m, c: (learned.append(m.method), finish(self, m, c)))
        ann, bob = train(short_training(f"method={request.param}", "concepts.names=[ann,bob]", runs))
    return Packed(request.param, ann, bob, learned[0])


def test_packed_is_alone_to_the_byte(packed: Packed, training: Training) -> None:
    assert_same(packed.bob, train(training(f"method={packed.name}", "concepts.names=[bob]"))[0])


SENSITIVE = {
    "dti": ["method.init=random", "method.prior.kappa=0.03"],
    "crossinit": ["method.prior.weight=0.001", "optim.eps=0.001"],
    "ti": ["optim.eps=0.1"],
    "ti_rescaled": ["optim.eps=0.1"],
    "attn_dreambooth": ["optim.eps=0.1", "optim.lr=0.02", "method.weight=1000"],
    "core": ["optim.eps=0.1", "optim.lr=0.02", "method.lambda_emb=1", "method.lambda_attn=1000"],
}
"""Settings with which the size of each term of the loss decides the step: priors as strong as the loss, and for AdamW
an eps that is not small beside the gradient, as it would else divide the gradient's scale out."""


@pytest.mark.parametrize("name", METHODS)
def test_packed_in_one_pass_is_alone_up_to_rounding(name: str, training: Training, tmp_path: Path) -> None:
    """A mean over the pack in place of the sum, in the loss or in the prior, would halve that term. With four samples
    some have the same prompt, which is encoded once."""
    keys = [f"method={name}", "trainer.batch=4", *SENSITIVE.get(name, [])]
    fused = ["concepts.names=[ann,bob]", "trainer.fuse=true", f"runs={tmp_path / 'packed'}"]
    packed = train(training(*keys, *fused))[1]
    alone = train(training(*keys, "concepts.names=[bob]", f"runs={tmp_path / 'alone'}"))[0]
    states = [load_file(folder.embedding) for folder in (packed, alone)]
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)


def test_interrupted_is_uninterrupted_to_the_byte(
    packed: Packed, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"method={packed.name}", "concepts.names=[bob]", "trainer.checkpoint_every=2", "trainer.snapshots=[2]"]
    stop_after(monkeypatch, step=5)
    with pytest.raises(MemoryError):
        train(training(*keys))
    monkeypatch.undo()
    assert_same(train(training(*keys))[0], packed.bob)


def test_an_embedding_reads_back_as_what_was_learned(packed: Packed, backbone: StableDiffusion) -> None:
    header = read_header(packed.ann.embedding)
    word = load_word(packed.ann.embedding, backbone.spec)
    assert word.count == 1
    for t in (torch.tensor([0]), torch.tensor([17]), torch.tensor([999])):
        for encoder, rows in word.at(t).items():
            assert rows.shape[2:] in ((1, DIM), (1, 2 * DIM))
            if header["method"] != "ti_rescaled":  # which is no training's own
                assert torch.equal(rows, packed.learned.eval()(torch.tensor([0]), t)[encoder])
    assert header["placeholder"] == "<ann>"
    assert header["method"] == packed.name
    assert header["base_model"] == "toybox"
    assert header["config_hash"] == packed.ann.seed_folder.parent.name


@pytest.mark.parametrize("name", ["dti", "ti_rescaled"])
def test_the_norm_is_kept_where_it_should_be(name: str, training: Training, backbone: StableDiffusion) -> None:
    norms = backbone.spec.encoders["text_encoder"].norms
    for magnitude in (*norms, 5.0):
        folder = train(training(f"method={name}", f"method.magnitude={magnitude}", "trainer.steps=1"))[0]
        wanted = norms.get(magnitude, 5.0)
        assert load_embedding(folder.embedding)[1].norm(dim=-1).item() == pytest.approx(wanted, rel=1e-6)
