"""What holds for every flow model: its words and its loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file

from dti_repro.artifacts.embedding import save_embeddings
from dti_repro.artifacts.run_dir import RunFolder
from dti_repro.backbones.base import EncoderSpec, PromptGroup
from dti_repro.backbones.checkpoint import check_words, encoder_dims, vocabulary
from dti_repro.backbones.flow_matching import ENCODER, FlowMatching
from dti_repro.backbones.sana import Sana
from dti_repro.backbones.wan import Wan
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.inference.export import export
from dti_repro.launch.command_line import compose
from tests.composed import composed
from tests.tiny_flow import DIM, SIDE

CLASSES: dict[str, type[FlowMatching]] = {"sana": Sana, "wan": Wan}
YAMLS = {"sana": "sana_1600m", "wan": "wan_1300m"}
TABLES = {"sana": "embed_tokens.weight", "wan": "shared.weight"}


@pytest.fixture(scope="module", params=["sana", "wan"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(kind: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{kind}_checkpoint")


@pytest.fixture(scope="module")
def load(kind: str, checkpoint: Path) -> Callable[..., FlowMatching]:
    return lambda **keys: CLASSES[kind](kind, str(checkpoint), SIDE, **keys)


@pytest.fixture(scope="module")
def backbone(load: Callable[..., FlowMatching]) -> FlowMatching:
    return load()


def latents_of(backbone: FlowMatching) -> torch.Tensor:
    return backbone.encode_images(torch.rand(2, 3, SIDE, SIDE, generator=torch.manual_seed(0)) * 2 - 1).mean


def test_a_placeholder_with_a_words_rows_is_that_word(backbone: FlowMatching) -> None:
    """Everything after the embedding is the model's code, scales and spaces included: at the start, within, twice,
    in capitals (`<Ann>`); one token and several (`axolotl`)."""
    for prompt in ("a photo of a {}", "{} on the grass", "a {} left of a {}"):
        for words in ("cat", "red car", "axolotl"):
            rows = backbone.embed_initializer("x", words, 0).rows[ENCODER]
            tokens = backbone.tokenize([prompt.replace("{}", "<Ann>")], {"<Ann>": len(rows)})
            placed = [position for position in tokens.positions[ENCODER][0].tolist() if position >= 0]
            assert placed == list(range(len(rows))) * prompt.count("{}")
            injected = backbone.encode_text(tokens, {ENCODER: rows[None, None]}).hidden
            plain = backbone.encode_text(backbone.tokenize([prompt.replace("{}", words)], {})).hidden
            assert torch.equal(injected, plain)


def test_vocabulary_statistics_are_of_the_rows_as_stored(kind: str, backbone: FlowMatching, checkpoint: Path) -> None:
    table = load_file(checkpoint / "text_encoder" / "model.safetensors")[TABLES[kind]]
    assert backbone.spec.encoders[ENCODER].norms == EncoderSpec.of(table).norms
    assert backbone.spec.encoders[ENCODER].norms["mean"] == pytest.approx(table.norm(dim=-1).mean().item(), rel=1e-6)
    assert torch.equal(vocabulary(checkpoint, ENCODER), table)
    assert encoder_dims(checkpoint) == {ENCODER: DIM}
    check_words(checkpoint, [("axolotl", "<x>")])


def test_the_sigmas_are_the_schedulers_own(
    load: Callable[..., FlowMatching], backbone: FlowMatching, checkpoint: Path
) -> None:
    """Read as diffusers' training examples read a checkpoint's config, in which the `flow_shift` of other schedulers
    says nothing."""
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(checkpoint, subfolder="scheduler")
    assert torch.equal(backbone.sigmas, theirs.sigmas.flip(0))
    assert torch.equal(backbone.times, theirs.timesteps.flip(0))
    shifted = load(flow_shift=3.0).sigmas
    uniform = torch.arange(1, 1001) / 1000
    torch.testing.assert_close(backbone.sigmas, uniform)
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform))


def test_the_loss_is_the_velocitys_written_out(kind: str, backbone: FlowMatching) -> None:
    latents = latents_of(backbone)
    noise = torch.randn(latents.shape, generator=torch.manual_seed(1))
    t = torch.tensor([10, 900])
    given = backbone.encode_text(backbone.tokenize(["a cat", "a red car"], {}))
    sigma = torch.tensor([0.011, 0.901]).view(-1, *[1] * (latents.ndim - 1))
    masked = {"encoder_attention_mask": given.mask} if kind == "sana" else {}
    predicted = backbone.denoiser(
        (1 - sigma) * latents + sigma * noise,
        timestep=torch.tensor([11.0, 901.0]),
        encoder_hidden_states=given.hidden,
        **masked,
    ).sample
    expected = (predicted - (noise - latents)).square().flatten(1).mean(1)
    torch.testing.assert_close(backbone.loss(latents, noise, t, given), expected)


def test_frozen_parts_in_bfloat16_leave_what_is_learned_in_float32(load: Callable[..., FlowMatching]) -> None:
    backbone = load(dtype="bfloat16")
    assert {p.dtype for p in backbone.text_encoders.parameters()} == {backbone.denoiser.dtype} == {torch.bfloat16}
    assert {p.dtype for p in backbone.vae.parameters()} == {torch.float32}
    initializer = backbone.embed_initializer("x", "cat", 0)
    assert initializer.rows[ENCODER].dtype == initializer.states[ENCODER].dtype == torch.float32
    latents = latents_of(backbone)[:1]
    assert latents.dtype == torch.float32
    vectors = initializer.rows[ENCODER][None, None].clone().requires_grad_()
    tokens = backbone.tokenize(["a photo of a <x>"], {"<x>": 1})
    conditioning = backbone.encode_text(tokens, {ENCODER: vectors})
    word = backbone.encode_text(backbone.tokenize(["a photo of a cat"], {}))
    assert torch.equal(conditioning.hidden, word.hidden)
    loss = backbone.loss(latents, torch.randn_like(latents), torch.tensor([500]), conditioning)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert vectors.grad.dtype == torch.float32
    assert bool(vectors.grad.isfinite().all())
    learned = {"<x>": {ENCODER: initializer.rows[ENCODER]}}
    assert len(backbone.generate(["a <x>"], learned, [0], steps=1, guidance=4.5, height=SIDE, width=SIDE)) == 1


def test_export_is_refused_as_no_other_program_loads_the_vectors(kind: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs", YAMLS[kind], "ti", "0123456789", 42)
    save_embeddings(run.concept("rex").embedding, "<rex>", {"": torch.ones(1, DIM)}, {"base_model": YAMLS[kind]})
    cfg = composed("export", f"run={run.path}", "to=diffusers", f"out={tmp_path / 'out'}")
    with pytest.raises(InputError, match="no other program"):
        export(cfg)


def test_what_cannot_be_is_refused_before_weights_are_read(
    kind: str, load: Callable[..., FlowMatching], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("weights were read")

    def check(**changes: Any) -> None:
        settings = {"steps": 2, "sampler_options": {}, "height": 64, "width": 64, **changes}
        CLASSES[kind].check_generation(checkpoint, **settings)

    monkeypatch.setattr("dti_repro.backbones.frozen_model.TextEncoder", fail)
    with pytest.raises(InputError, match="multiple of"):
        CLASSES[kind](kind, str(checkpoint), 40)
    with pytest.raises(InputError, match=r"backbone\.flow_shift is 0: a number above 0 or null"):
        validate("train", compose("train", ["backbone=sana_1600m", "backbone.flow_shift=0"]))
    with pytest.raises(InputError, match="height=40"):
        check(sampler="default", height=40)
    with pytest.raises(InputError, match="EulerDiscreteScheduler"):
        check(sampler="EulerDiscreteScheduler")
    with pytest.raises(InputError, match="no option 'shift'"):
        check(sampler="UniPCMultistepScheduler", sampler_options={"shift": 1})
    check(sampler="UniPCMultistepScheduler", sampler_options={"use_karras_sigmas": True})
    check(sampler="DPMSolverMultistepScheduler")
    with pytest.raises(
        InputError, match=r"DPMSolverMultistepScheduler does not fit a flow model with .*use_karras_sigmas"
    ):
        check(sampler="DPMSolverMultistepScheduler", sampler_options={"use_karras_sigmas": True})


def test_words_beyond_the_context_are_named(kind: str, checkpoint: Path) -> None:
    """The instruction before a prompt takes no room from it."""
    room = {"sana": 299, "wan": 511}[kind]
    fits, long = ["cat"] * room, ["cat"] * room + ["dog"]
    groups = [PromptGroup([" ".join(fits), " ".join(long)], "", {})]
    assert CLASSES[kind].truncated_words(checkpoint, groups) == {" ".join(long): "dog"}
