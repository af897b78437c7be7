"""Wan against diffusers' own pipeline, one frame at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from tokenizers import AddedToken

from dti_repro.backbones.flow_matching import ENCODER
from dti_repro.backbones.wan import LENGTH, Wan
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from tests.tiny_flow import DIM, SIDE

PROMPT = "a <x>  next to a red mug &amp; cat"


@pytest.fixture(scope="module")
def backbone(wan_checkpoint: Path) -> Wan:
    return Wan("wan", str(wan_checkpoint), SIDE)


@pytest.fixture(scope="module")
def learned() -> torch.Tensor:
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture(scope="module")
def pipeline(wan_checkpoint: Path, learned: torch.Tensor) -> WanPipeline:
    """Fresh, with <x> added by hand as two words of its vocabulary: it has no loader for textual inversions."""
    theirs = WanPipeline.from_pretrained(wan_checkpoint)
    table = theirs.text_encoder.get_input_embeddings().weight.data
    table[len(theirs.tokenizer) : len(theirs.tokenizer) + 2] = learned
    theirs.tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=False) for name in ("<x>", "<x>_1")])
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.mark.parametrize("prompt", ["a red cat left of a dog", PROMPT, "<x>"])
def test_conditioning_is_the_pipelines_own(
    backbone: Wan, pipeline: WanPipeline, learned: torch.Tensor, prompt: str
) -> None:
    """With the length of 512 that the pipeline draws with: what is zero behind the prompt is looked at, too."""
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(
            prompt.replace("<x>", "<x> <x>_1"), do_classifier_free_guidance=False, max_sequence_length=512, device="cpu"
        )
    ours = backbone.encode_text(backbone.tokenize([prompt], {"<x>": 2}), {ENCODER: learned[None, None]})
    assert ours.hidden.shape == (1, LENGTH, DIM)
    assert torch.equal(ours.hidden, theirs)
    assert ours.mask is None


def test_the_initializers_states_are_umt5s_last(backbone: Wan, pipeline: WanPipeline) -> None:
    ids = pipeline.tokenizer("axolotl", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(ids).last_hidden_state[0, :-1]
    own = backbone.start("x", "axolotl", 0)
    torch.testing.assert_close(own.states[ENCODER], states)
    assert own.rows[ENCODER].shape == states.shape


@pytest.mark.parametrize("negative", ["", "snow"])
def test_the_same_picture_as_diffusers(
    backbone: Wan, pipeline: WanPipeline, learned: torch.Tensor, negative: str
) -> None:
    (ours,) = backbone.generate(
        [PROMPT],
        {"<x>": {ENCODER: learned}},
        [5],
        steps=2,
        guidance=5.0,
        negative_prompt=negative,
        height=SIDE,
        width=2 * SIDE,
    )
    theirs = pipeline(
        PROMPT.replace("<x>", "<x> <x>_1"),
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=5.0,
        num_frames=1,
        height=SIDE,
        width=2 * SIDE,
        generator=torch.Generator().manual_seed(5),
        output_type="pil",
    ).frames[0][0]
    assert ours.size == (2 * SIDE, SIDE)
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


def test_latents_are_the_mode_of_the_pipelines_vae(backbone: Wan, pipeline: WanPipeline) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    latents = backbone.encode_images(pixels)
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels[:, :, None]).latent_dist
    mean, std = (torch.tensor(pipeline.vae.config[f"latents_{key}"]).view(1, 16, 1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(latents.mean * std + mean, posterior.mean)
    assert latents.mean.shape == (2, 16, 1, SIDE // 8, SIDE // 8)
    assert not bool(latents.std.any())


def test_what_is_no_wan_2_1_is_refused(wan_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resolution is null: a multiple of 16, such as 512, is needed"):
        validate("train", compose("train", ["backbone=wan_1300m", "backbone.resolution=null"]))
    copy = Path(shutil.copytree(wan_checkpoint, tmp_path / "copy"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "transformer_2": ["diffusers", "X"]}))
    with pytest.raises(InputError, match=r"Wan 2\.2"):
        Wan("wan", str(copy), SIDE)
