"""The measurements of `dti mechanism` against the libraries' own outputs and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dti_repro.backbones.base import row_norms
from dti_repro.backbones.text_encoder import TextEncoder
from dti_repro.experiments.mechanism.attention import shares
from dti_repro.experiments.mechanism.inputs import load_encoders
from dti_repro.experiments.mechanism.neighbours import nearest
from dti_repro.experiments.mechanism.part import WORD
from dti_repro.experiments.mechanism.position_probe import PositionProbe, added_positions
from dti_repro.experiments.mechanism.states import Reading, layers_of, read_word
from dti_repro.experiments.training_columns import norms_on_noise
from tests.tiny import build_tiny_sdxl
from tests.tiny_flow import build_tiny_sana, build_tiny_wan

PROMPT = "a photo of the {} on grass"
BACKBONES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sdxl": ("dti_repro.backbones.sdxl.StableDiffusionXL", build_tiny_sdxl),
    "sana": ("dti_repro.backbones.sana.Sana", build_tiny_sana),
    "wan": ("dti_repro.backbones.wan.Wan", build_tiny_wan),
}

FINAL_NORMS = {
    "sdxl text_encoder": "final_layer_norm",
    "sdxl text_encoder_2": "text_model.final_layer_norm",
    "sana text_encoder": "norm",
    "wan text_encoder": "encoder.final_layer_norm",
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    """The text encoders of tiny SDXL, SANA and Wan."""
    found = {}
    for name, (target, make) in BACKBONES.items():
        loaded = load_encoders(target, make(tmp_path_factory.mktemp(name)))
        found |= {f"{name} {encoder}": model for encoder, model in loaded.items()}
    return found


def some_vectors(encoder: TextEncoder, count: int = 3) -> Tensor:
    return torch.randn(count, encoder.table.shape[1], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FINAL_NORMS)
def test_states_are_those_of_a_whole_padded_prompt_without_hooks(name: str, encoders: dict[str, TextEncoder]) -> None:
    encoder = encoders[name]
    vectors = some_vectors(encoder)
    reading = read_word(encoder, PROMPT, vectors)
    ids, positions = encoder.tokenizer([PROMPT.format(WORD)] * len(vectors), {WORD: 1})
    mask = {} if name.startswith("sdxl") else {"attention_mask": encoder.tokenizer.mask(ids)}
    with torch.no_grad():
        output = encoder(ids, positions, vectors[:, None], output_hidden_states=True, **mask)
    layers = len(layers_of(encoder.model))
    theirs = torch.stack(output.hidden_states, dim=1)[:, :layers, reading.place]
    torch.testing.assert_close(reading.states[:, :layers], theirs, rtol=1e-4, atol=1e-4)
    after_all = encoder.model.get_submodule(FINAL_NORMS[name])(reading.states[:, -1])
    torch.testing.assert_close(after_all, output.last_hidden_state[:, reading.place], rtol=1e-4, atol=1e-4)


def test_attention_of_the_first_layer_is_the_softmax_of_its_queries_and_keys(encoders: dict[str, TextEncoder]) -> None:
    encoder = encoders["sdxl text_encoder"]
    vector = some_vectors(encoder, 1)
    reading = read_word(encoder, PROMPT, vector, attention=True)
    tokens = reading.attention.shape[-1]
    ids, positions = encoder.tokenizer([PROMPT.format(WORD)], {WORD: 1})
    layer = layers_of(encoder.model)[0]
    with torch.no_grad(), encoder.embedding.reading(positions[:, :tokens], vector[None]):
        states = layer.layer_norm1(encoder.model.embeddings(ids[:, :tokens]))[0]
    heads = encoder.model.config.num_attention_heads
    q, k = (
        project(states).view(tokens, heads, -1).transpose(0, 1)
        for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(reading.attention[0, 0], scores.softmax(-1), rtol=1e-5, atol=1e-6)
    assert (reading.start, reading.end) == (0, tokens - 1)


def test_the_start_and_the_end_are_named_only_where_a_tokenizer_adds_them(encoders: dict[str, TextEncoder]) -> None:
    ends = {}
    for name, encoder in encoders.items():
        reading = read_word(encoder, "photo of a {}", some_vectors(encoder, 1), attention=True)
        ends[name] = (reading.start, reading.end is not None)
        assert ("from_end" in shares(reading)) == (reading.end is not None)
    assert ends["sdxl text_encoder"] == ends["sdxl text_encoder_2"] == (0, True)
    assert ends["sana text_encoder"] == (0, False)
    assert ends["wan text_encoder"] == (None, True)


def test_uniform_attention_has_the_entropy_of_a_uniform_distribution() -> None:
    uniform = torch.full((1, 2, 3, 5, 5), 1 / 5)
    found = shares(Reading(3, 0, 4, torch.zeros(1, 3, 8), uniform))
    assert found["entropy"].flatten().tolist() == pytest.approx([math.log(5)] * 2)
    for key in ("itself", "start", "from_end"):
        assert found[key].flatten().tolist() == pytest.approx([0.2] * 2)


def test_the_probe_reads_positions_of_short_tokens_and_none_of_endless_ones(checkpoint: Path) -> None:
    (encoder,) = load_encoders("dti_repro.backbones.stable_diffusion.StableDiffusion", checkpoint).values()
    probe = PositionProbe(encoder, seed=0)
    unit = torch.nn.functional.normalize(probe.held_out, dim=-1)
    assert float(probe.accuracy(unit * 1e-4).mean()) > 0.9
    # LayerNorm has then the same output at all positions, so the answer is right at exactly one of them.
    assert float(probe.accuracy(unit * 1e9).mean()) == pytest.approx(1 / len(probe.places))


def test_only_clip_adds_positions_to_tokens(encoders: dict[str, TextEncoder]) -> None:
    found = {name for name, encoder in encoders.items() if added_positions(encoder.model) is not None}
    assert found == {"sdxl text_encoder", "sdxl text_encoder_2"}


@pytest.mark.parametrize("length", [0.1, 1.0, 30.0])
def test_neighbours_are_those_of_the_whole_list_of_distances(length: float) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(40, 8, generator=generator) * torch.rand(40, 1, generator=generator)
    table[5] = 0
    vector = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=-1) * length
    kept = [row for row in range(40) if row not in (5, 7)]
    distances = torch.cdist(vector[None], table)[0]
    cosines = torch.nn.functional.cosine_similarity(vector[None], table)
    by_distance, by_cosine = (nearest(table, vector, kind, 6, own=7) for kind in ("distance", "cosine"))
    assert [row for row, _ in by_distance] == sorted(kept, key=lambda row: float(distances[row]))[:6]
    assert [row for row, _ in by_cosine] == sorted(kept, key=lambda row: -float(cosines[row]))[:6]
    assert [value for _, value in by_distance] == pytest.approx([float(distances[r]) for r, _ in by_distance], rel=1e-3)
    assert [value for _, value in by_cosine] == pytest.approx([float(cosines[row]) for row, _ in by_cosine], rel=1e-4)


def test_adamw_takes_a_first_step_of_its_rate_in_every_number() -> None:
    optim = {"_target_": "torch.optim.AdamW", "lr": 0.02, "weight_decay": 0.0}
    norms = norms_on_noise(optim, 0.0, dims=[256], steps=2)
    assert norms[:2] == pytest.approx([0.0, 0.02 * math.sqrt(256)], rel=1e-4)
    assert len(norms) == 3


def test_norms_of_rows_are_numpys() -> None:
    table = torch.randn(40_000, 3)
    np.testing.assert_allclose(row_norms(table).numpy(), np.linalg.norm(table.numpy().astype(float), axis=1))
