"""SANA against the pipeline of diffusers."""

from __future__ import annotations

import inspect
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from diffusers import SanaPipeline
from tokenizers import AddedToken

from dti_repro.backbones.flow_matching import ENCODER
from dti_repro.backbones.sana import LENGTH, Sana
from dti_repro.config import CONF
from dti_repro.data.prompts import Prompt, PromptSet
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import GenerationConfig, Subject, build_image_folder
from tests.tiny_flow import DIM, SIDE

PROMPT = "a <x> next to a Red mug"
INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


@pytest.fixture(scope="module")
def backbone(sana_checkpoint: Path) -> Sana:
    return Sana("sana", str(sana_checkpoint), None)


@pytest.fixture(scope="module")
def learned() -> torch.Tensor:
    return torch.randn(2, DIM, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture(scope="module")
def pipeline(sana_checkpoint: Path, learned: torch.Tensor) -> SanaPipeline:
    """Fresh, with <x> added by hand as two words of its vocabulary: it has no loader for textual inversions."""
    theirs = SanaPipeline.from_pretrained(sana_checkpoint)
    names = [AddedToken(name, lstrip=True, normalized=False) for name in ("<x>", "<x>_1")]
    theirs.tokenizer.add_tokens(names)
    theirs.text_encoder.resize_token_embeddings(len(theirs.tokenizer))
    theirs.text_encoder.get_input_embeddings().weight.data[-2:] = learned
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.mark.parametrize("prompt", ["a Red cat left of a dog", PROMPT, "<x>"])
@pytest.mark.parametrize("instruction", ["pipeline", "none", "Describe in short:\nPrompt: "])
def test_conditioning_is_the_pipelines_own(
    sana_checkpoint: Path, pipeline: SanaPipeline, learned: torch.Tensor, instruction: str, prompt: str
) -> None:
    backbone = Sana("sana", str(sana_checkpoint), None, instruction=instruction)
    lines = {"pipeline": INSTRUCTION, "none": None}.get(instruction, instruction.split("\n"))
    hidden, mask, _, _ = pipeline.encode_prompt(
        prompt.replace("<x>", "<x> <x>_1"),
        do_classifier_free_guidance=False,
        device="cpu",
        complex_human_instruction=lines,
    )
    ours = backbone.encode_text(backbone.tokenize([prompt], {"<x>": 2}), {ENCODER: learned[None, None]})
    assert ours.hidden.shape == (1, LENGTH, DIM)
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.mask, mask)


def test_the_instruction_is_the_same_in_training_and_generation_but_as_published(
    sana_checkpoint: Path, backbone: Sana
) -> None:
    text = "\n".join(INSTRUCTION)
    assert (backbone.training_prefix, backbone.generation_prefix) == (text, text)
    published = Sana("sana", str(sana_checkpoint), None, instruction="as_published")
    assert (published.training_prefix, published.generation_prefix) == ("", text)
    plain = published.encode_text(published.tokenize(["a cat"], {}))
    assert not torch.equal(plain.hidden, backbone.encode_text(backbone.tokenize(["a cat"], {})).hidden)


def test_images_of_another_instruction_have_another_folder(sana_checkpoint: Path) -> None:
    model = ["backbone=sana_1600m", f"backbone.path={sana_checkpoint}", "prompts=demo"]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        one, other = (
            GenerationConfig.of(hydra.compose("generate", [*model, f"backbone.instruction={instruction}"]))
            for instruction in ("pipeline", "none")
        )
    rex = [Subject("rex", "dog", "dog")]
    prompts = PromptSet("ours", (Prompt("a {}"),))
    folders = {build_image_folder(Path("images"), rex, prompts, [0], settings).path for settings in (one, other)}
    assert len(folders) == 2


def test_the_initializers_states_are_gemmas_last(backbone: Sana, pipeline: SanaPipeline) -> None:
    """The states of the word as it is within a sentence, without an instruction."""
    ids = pipeline.tokenizer(" cat", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(ids).last_hidden_state[0, 1:]
    torch.testing.assert_close(backbone.embed_initializer("x", "cat", 0).states[ENCODER], states)


@pytest.mark.parametrize(("instruction", "negative"), [("pipeline", ""), ("as_published", "snow"), ("none", "")])
def test_the_same_picture_as_diffusers(
    sana_checkpoint: Path, pipeline: SanaPipeline, learned: torch.Tensor, instruction: str, negative: str
) -> None:
    backbone = Sana("sana", str(sana_checkpoint), None, instruction=instruction)
    (ours,) = backbone.generate(
        [PROMPT], {"<x>": {ENCODER: learned}}, [5], steps=2, guidance=4.5, negative_prompt=negative
    )
    theirs = pipeline(
        PROMPT.replace("<x>", "<x> <x>_1"),
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=4.5,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(5),
        use_resolution_binning=False,
        complex_human_instruction=None if instruction == "none" else INSTRUCTION,
    ).images[0]
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    other = backbone.generate(["a dog"], {}, [5], steps=2, guidance=4.5)[0]
    assert not np.array_equal(np.asarray(ours), np.asarray(other))


def test_latents_are_those_of_the_pipelines_autoencoder(backbone: Sana, pipeline: SanaPipeline) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    latents = backbone.encode_images(pixels)
    with torch.no_grad():
        torch.testing.assert_close(latents.mean, pipeline.vae.encode(pixels).latent * 0.41407)
    assert not bool(latents.std.any())


def test_placeholders_that_differ_in_capitals_only_are_refused(backbone: Sana) -> None:
    with pytest.raises(InputError, match="<Ann>, <ann>"):
        backbone.tokenize(["a <Ann> and a <ann>"], {"<Ann>": 1, "<ann>": 1})
