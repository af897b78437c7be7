"""The shipped base model is an ordinary Stable Diffusion checkpoint: diffusers loads and runs it without our code."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.toybox.language import WORDS

LIMIT = 45_000_000  # bytes of all weights together
SHARD = 15_000_000


def test_diffusers_draws_with_it_without_arguments() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(PACKAGED)
    pipeline.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    image = pipeline(
        "a red dog on the beach", num_inference_steps=8, generator=torch.Generator().manual_seed(0)
    ).images[0]
    pixels = np.asarray(image, dtype=float)
    assert pixels.shape == (48, 48, 3)
    # The beach's sky is light blue and its sand yellow: a checkpoint that lost its training draws neither.
    sky, sand = pixels[:6].mean(axis=(0, 1)), pixels[-6:].mean(axis=(0, 1))
    assert sky[2] > sky[0]
    assert sand[0] > sand[2]


def test_words_have_rows_and_letters_have_none() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(PACKAGED)
    table = pipeline.text_encoder.get_input_embeddings().weight
    vocabulary = pipeline.tokenizer.get_vocab()
    assert all(table[vocabulary[f"{word}</w>"]].any() for word in WORDS)
    assert not table[vocabulary["z"]].any()


def test_the_weights_are_small_enough_to_ship() -> None:
    files = [path for path in PACKAGED.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert max(path.stat().st_size for path in files) <= SHARD
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
