"""Stable Diffusion against the models of the libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dti_repro.backbones.base import Conditioning, EncoderSpec
from dti_repro.backbones.checkpoint import fingerprint
from dti_repro.backbones.stable_diffusion import ENCODER, StableDiffusion
from dti_repro.errors import InputError
from tests.tiny import build_tiny_sd


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> StableDiffusion:
    return StableDiffusion("toybox", str(checkpoint), None)


def test_a_placeholder_with_a_words_row_encodes_to_the_same_bits_as_the_word(backbone: StableDiffusion) -> None:
    """Everything after the embedding is the model's code. First, second and several places, repeats, two words."""
    for prompt in ("a photo of a {}", "{} on the grass", "a {} left of a {}"):
        for words in ("cat", "red car"):
            initializer = backbone.embed_initializer("x", words, 0)
            tokens = backbone.tokenize([prompt.replace("{}", "<x>")], {"<x>": len(initializer.rows[ENCODER])})
            injected = backbone.encode_text(tokens, {ENCODER: initializer.rows[ENCODER][None, None]}).hidden
            plain = backbone.encode_text(backbone.tokenize([prompt.replace("{}", words)], {})).hidden
            assert torch.equal(injected, plain)


def test_plain_prompts_encode_as_diffusers_pipeline_does(backbone: StableDiffusion, checkpoint: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    theirs, _ = pipeline.encode_prompt("a red cat left of a ball", "cpu", 1, False)
    ours = backbone.encode_text(backbone.tokenize(["a red cat left of a ball"], {})).hidden
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_diffusion_loss_written_out(tmp_path: Path, prediction: str) -> None:
    backbone = StableDiffusion("x", str(build_tiny_sd(tmp_path, prediction)), None)
    latents, noise = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([10, 900])
    hidden = backbone.encode_text(backbone.tokenize(["a cat", "a car"], {})).hidden
    alpha = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)[t].view(-1, 1, 1, 1)
    predicted = backbone.denoiser(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, t, hidden).sample
    target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    expected = (predicted - target).square().flatten(1).mean(1)
    torch.testing.assert_close(backbone.loss(latents, noise, t, Conditioning(hidden)), expected)


def test_latents_are_those_of_the_pipelines_vae(backbone: StableDiffusion) -> None:
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    posterior = backbone.vae.encode(pixels).latent_dist
    latents = backbone.encode_images(pixels)
    torch.testing.assert_close(latents.mean, posterior.mean * backbone.vae.config.scaling_factor)
    torch.testing.assert_close(latents.std, posterior.std * backbone.vae.config.scaling_factor)


def test_vocabulary_statistics_skip_rows_of_no_word() -> None:
    table = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 3.0]])
    spec = EncoderSpec.of(table)
    assert spec.norms == {"mean": 3.0, "min": 1.0, "max": 5.0, "median": 3.0}
    torch.testing.assert_close(spec.mean_row, torch.tensor([1.0, 8 / 3]))


def test_a_prompt_that_cuts_the_placeholder_off_is_refused(backbone: StableDiffusion) -> None:
    with pytest.raises(InputError, match="longer than"):
        backbone.tokenize(["a " * 40 + "<x>"], {"<x>": 1})
    with pytest.raises(InputError, match="<x>"):
        backbone.tokenize(["a <x>"], {})  # known to the tokenizer by now, but without vectors
    with pytest.raises(InputError, match="no vectors are given for <new>"):
        backbone.tokenize(["a <new>"], {})  # which would be plain text


def test_a_learned_word_in_the_negative_prompt_is_its_vectors(backbone: StableDiffusion) -> None:
    """With a word's row the image is the one of the word."""
    learned = {"<x>": {ENCODER: backbone.embed_initializer("x", "cat", 0).rows[ENCODER]}}
    ours, words, none = (
        backbone.generate(["a dog"], learned, [0], steps=1, guidance=5.0, negative_prompt=negative)[0].tobytes()
        for negative in ("a <x>", "a cat", "a")
    )
    assert ours == words != none


def test_the_fingerprint_knows_weights_and_not_places(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(checkpoint)
    assert fingerprint(build_tiny_sd(tmp_path / "other", seed=1)) != fingerprint(checkpoint)
