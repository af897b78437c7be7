"""Vectors that depend on the cross-attention layer and the timestep, against loops that are written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.transformers import Transformer2DModel
from torch import Tensor, nn

from dti_repro.backbones.base import BackboneSpec, Conditioning, InitializerEmbedding, LearnedWord, TokenVectors
from dti_repro.backbones.sdxl import StableDiffusionXL
from dti_repro.backbones.stable_diffusion import ENCODER, LatentDiffusion, StableDiffusion
from dti_repro.methods.neti import NeTI
from tests.tiny import build_tiny_sdxl

PROMPT = "a photo of a <x> on the grass"
Word = Callable[[Tensor], TokenVectors]


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def backbone(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "sd":
        return StableDiffusion("toybox", str(checkpoint), None)
    return StableDiffusionXL("sdxl", str(build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))), 32)


def rows_of(backbone: LatentDiffusion, layers: int, seed: int = 0) -> TokenVectors:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.randn(1, layers, 1, e.dim, generator=random) * 0.3 for n, e in backbone.spec.encoders.items()}


def layers_of(backbone: LatentDiffusion) -> list[nn.Module]:
    unet = backbone.denoiser
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [layer for block in blocks for layer in block.modules() if isinstance(layer, Transformer2DModel)]


def sample(backbone: LatentDiffusion) -> tuple[Tensor, Tensor, Tensor]:
    side = backbone.spec.resolution // backbone.factor
    latents, noise = torch.randn(2, 1, 4, side, side, generator=torch.Generator().manual_seed(1)).unbind()
    return latents, noise, torch.tensor([500])


@contextmanager
def each_layer_reads(backbone: LatentDiffusion, keys: list[Tensor], values: list[Tensor]) -> Iterator[None]:
    """Let layer i make its keys of keys[i] and its values of values[i], by attention that is written out."""

    class Read(AttnProcessor):
        def __init__(self, k: Tensor, v: Tensor) -> None:
            super().__init__()
            self.states = k, v

        def __call__(self, attn: Attention, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
            k, v = self.states
            query, key, value = (
                part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for part in (attn.to_q(hidden_states), attn.to_k(k), attn.to_v(v))
            )
            shares = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            return attn.to_out[0]((shares @ value).transpose(1, 2).flatten(2))

    attentions = [[block.attn2 for block in layer.transformer_blocks] for layer in layers_of(backbone)]
    before = [(attn, attn.processor) for layer in attentions for attn in layer]
    for layer, k, v in zip(attentions, keys, values, strict=True):
        for attn in layer:
            attn.set_processor(Read(k, v))
    yield
    for attn, processor in before:
        attn.set_processor(processor)


def test_equal_layers_are_the_plain_model_to_the_bit(backbone: LatentDiffusion) -> None:
    rows = rows_of(backbone, 1)
    tied = {name: row.expand(-1, backbone.spec.layers, -1, -1) for name, row in rows.items()}
    tokens = backbone.tokenize([PROMPT], {"<x>": 1})
    losses = [backbone.loss(*sample(backbone), backbone.encode_text(tokens, vectors)) for vectors in (rows, tied)]
    assert torch.equal(*losses)
    words = [{name: row[0, 0] for name, row in rows.items()}, LearnedWord(1, lambda t: tied, frozenset({"layer"}))]
    images = [np.asarray(backbone.generate([PROMPT], {"<x>": word}, [3], steps=2, guidance=4.0)[0]) for word in words]
    assert np.array_equal(*images)


def test_each_layer_reads_the_prompt_with_its_own_vectors(backbone: LatentDiffusion) -> None:
    rows = rows_of(backbone, backbone.spec.layers)
    tokens = backbone.tokenize([PROMPT], {"<x>": 1})
    assert backbone.spec.layers == len(layers_of(backbone)) > 1
    each = [
        backbone.encode_text(tokens, {name: row[:, i : i + 1] for name, row in rows.items()})
        for i in range(backbone.spec.layers)
    ]
    hidden = [conditioning.hidden for conditioning in each]
    middle = each[backbone.spec.layers // 2]
    with each_layer_reads(backbone, hidden, hidden):
        expected = backbone.loss(*sample(backbone), middle)
    ours = backbone.loss(*sample(backbone), backbone.encode_text(tokens, rows))
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, backbone.loss(*sample(backbone), middle), rtol=1e-4)


def test_a_bypass_changes_the_values_only_and_by_its_share_of_the_states_norm(backbone: LatentDiffusion) -> None:
    rows = rows_of(backbone, 1)
    bypass = {n: 9 * nn.functional.normalize(row, dim=-1) for n, row in rows_of(backbone, 1, seed=5).items()}
    tokens = backbone.tokenize([PROMPT], {"<x>": 1})
    both = backbone.encode_text(tokens, {name: torch.cat([row, bypass[name]], dim=-1) for name, row in rows.items()})
    plain = backbone.encode_text(tokens, rows)
    expected = []
    for name, encoder in backbone.text_encoders.items():
        output = encoder(tokens.ids[name], tokens.positions[name], rows[name][:, 0], output_hidden_states=True)
        states = output.hidden_states[-1 if name == ENCODER and len(rows) == 1 else -2].clone()
        place = tokens.positions[name][0].tolist().index(0)
        states[0, place] += states[0, place].norm() * bypass[name][0, 0, 0]
        expected.append(encoder.model.final_layer_norm(states) if len(rows) == 1 else states)
    layers = backbone.spec.layers
    with each_layer_reads(backbone, [plain.hidden] * layers, [torch.cat(expected, dim=-1)] * layers):
        wanted = backbone.loss(*sample(backbone), plain)
    torch.testing.assert_close(backbone.loss(*sample(backbone), both), wanted)
    assert not torch.allclose(wanted, backbone.loss(*sample(backbone), plain), rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_each_timestep_of_the_sampler_reads_its_own_vectors(checkpoint: Path, guidance: float) -> None:
    backbone = StableDiffusion("toybox", str(checkpoint), None)
    tables = rows_of(backbone, 10)[ENCODER][0]  # ten stages

    def at(t: Tensor) -> TokenVectors:
        return {ENCODER: tables[(t * 10 // 1000).long()][:, None]}

    words = {"<x>": LearnedWord(1, at, frozenset({"timestep"}))}
    (image,) = backbone.generate([PROMPT], words, [3], steps=5, guidance=guidance)

    scheduler: DDIMScheduler = backbone._sampler(backbone.generation_scheduler, "default", {})
    scheduler.set_timesteps(5)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    tokens = backbone.tokenize([PROMPT], {"<x>": 1})
    empty = backbone.encode_text(backbone.tokenize([""], {})).hidden
    with torch.no_grad():
        for t in scheduler.timesteps:
            hidden = backbone.encode_text(tokens, at(t[None])).hidden
            with_word, without = (backbone.denoiser(latents, t, h).sample for h in (hidden, empty))
            predicted = with_word if guidance == 1 else without + guidance * (with_word - without)
            latents = scheduler.step(predicted, t, latents).prev_sample
        decoded = backbone.vae.decode(latents / backbone.vae.config.scaling_factor).sample
    expected = ((decoded[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).round()
    assert np.abs(np.asarray(image).astype(float) - expected.numpy()).max() <= 1


def test_words_with_and_without_layers_stand_in_one_prompt(checkpoint: Path) -> None:
    """The one without is the same at every layer."""
    backbone = StableDiffusion("toybox", str(checkpoint), None)
    plain, layered = rows_of(backbone, 1), rows_of(backbone, backbone.spec.layers, seed=1)
    tied = {name: row.expand(-1, backbone.spec.layers, -1, -1) for name, row in plain.items()}
    word = LearnedWord(1, lambda t: layered, frozenset({"layer"}))
    images = [
        backbone.generate(["a <x> left of a <y>"], {"<x>": word, "<y>": other}, [0], steps=1, guidance=2.0)[0]
        for other in ({ENCODER: plain[ENCODER][0, 0]}, LearnedWord(1, lambda t: tied, frozenset({"layer"})))
    ]
    assert np.array_equal(*map(np.asarray, images))


NETI = {"features": 6, "sigma_t": 0.03, "sigma_l": 2.0, "anchors": 5, "dropout": 0.5, "strength": 0.2}


def neti(bypass: bool) -> NeTI:
    rows = {ENCODER: torch.full((2, 8), 0.5)}
    method = NeTI(**NETI, bypass=bypass)
    method.initialise([InitializerEmbedding("a", 0, rows, rows)], BackboneSpec("x", {ENCODER: None}, 64, 500, layers=3))
    return method


def test_netis_mapper_is_the_published_arithmetic() -> None:
    """Features of (t on the scale of 1000, layer), as numpy has them; the output is as long as the initializer."""
    method = neti(bypass=True)
    mapper = method.concepts[0][ENCODER]
    places = np.array([[200.0, layer] for layer in range(3)])  # t = 100 of 500
    angles = places @ mapper.frequencies.numpy().T
    features = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    features = torch.from_numpy(features / np.linalg.norm(features, axis=1, keepdims=True)).float()
    hidden = mapper.hidden(features)
    rows = mapper.output(hidden).view(3, 2, 16)
    rows = rows / rows.norm(dim=-1, keepdim=True) * (0.5 * 8**0.5)
    made = method(torch.tensor([0]), torch.tensor([100]))[ENCODER][0]
    torch.testing.assert_close(made[..., :8], rows[..., :8])
    torch.testing.assert_close(made[..., 8:].norm(dim=-1), torch.full((3, 2), 0.2))
    torch.testing.assert_close(made[..., 8:], 0.2 * nn.functional.normalize(rows[..., 8:], dim=-1))
    anchors = torch.tensor([[1000 / 5 * k, layer] for k in range(5) for layer in range(3)])
    torch.testing.assert_close(mapper.hidden[0].weight, mapper._encode(anchors))


def test_netis_nested_dropout_keeps_the_first_units_half_of_the_time() -> None:
    method = neti(bypass=False)
    kept = [method._kept(chance) for chance in np.linspace(0, 0.9999, 1000)]
    assert kept.count(None) == 500
    assert {number for number in kept if number is not None} == set(range(128))
    mapper = method.concepts[0][ENCODER]
    bias = nn.functional.normalize(mapper.output.bias.view(2, 8), dim=-1) * (0.5 * 8**0.5)
    dropped = method(torch.tensor([0]), torch.tensor([3]), torch.tensor([0.0]))[ENCODER][0]  # all units
    torch.testing.assert_close(dropped, bias.expand(3, 2, 8))


def test_a_constant_mapper_without_a_bypass_is_textual_inversion(checkpoint: Path) -> None:
    backbone = StableDiffusion("toybox", str(checkpoint), None)
    method = NeTI(**NETI, bypass=False)
    method.initialise([backbone.embed_initializer("a", "cat", 0)], backbone.spec)
    mapper = method.concepts[0][ENCODER]
    mapper.output.weight.data.zero_()
    constant = method(torch.tensor([0]), torch.tensor([3]))[ENCODER][0, 0]
    tokens = backbone.tokenize([PROMPT], {"<x>": 1})
    one = backbone.encode_text(tokens, {ENCODER: constant[None, None]})
    mapped = backbone.encode_text(tokens, method(torch.tensor([0]), torch.tensor([700])))
    torch.testing.assert_close(backbone.loss(*sample(backbone), mapped), backbone.loss(*sample(backbone), one))


def test_recorded_attention_maps_are_shares_and_change_nothing(backbone: LatentDiffusion) -> None:
    conditioning: Conditioning = backbone.encode_text(backbone.tokenize(["a cat"], {}))
    plain = backbone.loss(*sample(backbone), conditioning)
    with backbone.attention_maps() as maps:
        recorded = backbone.loss(*sample(backbone), conditioning)
    torch.testing.assert_close(recorded, plain)
    assert len(maps) == sum(len(layer.transformer_blocks) for layer in layers_of(backbone))
    for shares in maps:
        assert shares.ndim == 4
        assert shares.shape[-1] == conditioning.hidden.shape[1]
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
    with backbone.attention_maps() as again:
        pass
    assert again == []


def test_netis_features_are_as_exact_in_training_as_in_drawing() -> None:
    """Training in bfloat16 would round a timestep to one of 256."""
    mapper = neti(bypass=True).concepts[0][ENCODER]
    places = torch.tensor([[701.0, 2.0], [703.0, 2.0]])
    exact = mapper._encode(places)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mapper._encode(places), exact)
