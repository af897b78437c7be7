"""SANA against the pipeline of diffusers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline
from omegaconf import DictConfig
from PIL import Image
from tokenizers import AddedToken
from torch.nn.functional import normalize

from dti_repro.artifacts.embedding import load_embeddings
from dti_repro.backbones.flow_matching import ENCODER
from dti_repro.backbones.sana import LENGTH, Sana
from dti_repro.data.prompts import Prompt, PromptSet
from dti_repro.errors import InputError
from dti_repro.inference.image_folder import GenerationConfig, Subject, build_image_folder
from dti_repro.training.batches import Batch, ConceptDataset
from dti_repro.training.runs import hashed
from dti_repro.training.train_missing import train
from tests.composed import composed
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
    each = [
        GenerationConfig.of(composed("generate", *model, f"backbone.{key}"))
        for key in ("instruction=pipeline", "instruction=none", "instruction=as_published", "as_published=true")
    ]
    rex = [Subject("rex", "dog", "dog")]
    prompts = PromptSet("ours", (Prompt("a {}"),))
    folders = {build_image_folder(Path("images"), rex, prompts, [0], settings).path for settings in each}
    assert len(folders) == len(each)


def test_the_initializers_states_are_gemmas_last(backbone: Sana, pipeline: SanaPipeline) -> None:
    """The states of the word as it is within a sentence, without an instruction."""
    ids = pipeline.tokenizer(" cat", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(ids).last_hidden_state[0, 1:]
    torch.testing.assert_close(backbone.embed_initializer("x", "cat", 0).states[ENCODER], states)


def drawn_by_diffusers(pipeline: SanaPipeline, **options: str | list[str] | None) -> Image.Image:
    return pipeline(
        PROMPT.replace("<x>", "<x> <x>_1"),
        num_inference_steps=2,
        guidance_scale=4.5,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(5),
        use_resolution_binning=False,
        **options,
    ).images[0]


@pytest.mark.parametrize(("instruction", "negative"), [("pipeline", ""), ("as_published", "snow"), ("none", "")])
def test_the_same_picture_as_diffusers(
    sana_checkpoint: Path, pipeline: SanaPipeline, learned: torch.Tensor, instruction: str, negative: str
) -> None:
    backbone = Sana("sana", str(sana_checkpoint), None, instruction=instruction)
    (ours,) = backbone.generate(
        [PROMPT], {"<x>": {ENCODER: learned}}, [5], steps=2, guidance=4.5, negative_prompt=negative
    )
    theirs = drawn_by_diffusers(
        pipeline,
        negative_prompt=negative,
        complex_human_instruction=None if instruction == "none" else INSTRUCTION,
    )
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    other = backbone.generate(["a dog"], {}, [5], steps=2, guidance=4.5)[0]
    assert not np.array_equal(np.asarray(ours), np.asarray(other))


@pytest.fixture
def published(
    sana_checkpoint: Path, training: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[torch.Tensor, list[Batch], ConceptDataset, DictConfig]]:
    """Train with as_published and return the vector, the batches, where they are from, and the configuration."""
    batches: list[Batch] = []
    datasets: list[ConceptDataset] = []
    draw = ConceptDataset.__getitem__

    def spy(self: ConceptDataset, step: int) -> Batch:
        datasets.append(self)
        batches.append(draw(self, step))
        return batches[-1]

    def run(*overrides: str) -> tuple[torch.Tensor, list[Batch], ConceptDataset, DictConfig]:
        model = ["backbone=sana_1600m", f"backbone.path={sana_checkpoint}", f"backbone.resolution={SIDE}"]
        exact = ["backbone.dtype=float32", "backbone.as_published=true", "trainer.batch=4", "trainer.steps=3"]
        cfg = training(*model, *exact, *overrides)
        (folder,) = train(cfg)
        return next(iter(load_embeddings(folder.embedding).values()))[0], batches, datasets[0], cfg

    monkeypatch.setattr(ConceptDataset, "__getitem__", spy)
    return run


def test_as_published_trains_dti_as_a_plain_loop_with_zero_vectors_before_its_prompts(
    sana_checkpoint: Path, published: Callable[..., tuple[torch.Tensor, list[Batch], ConceptDataset, DictConfig]]
) -> None:
    learned, batches, dataset, cfg = published("method=dti", "method.prior.kappa=1e-3")
    batches = list(batches)
    theirs = SanaPipeline.from_pretrained(sana_checkpoint)
    tokenizer, table = theirs.tokenizer, theirs.text_encoder.get_input_embeddings().weight.detach()
    cat = tokenizer(" cat", add_special_tokens=False).input_ids
    tokenizer.add_tokens([AddedToken("<ann>", lstrip=True, normalized=False), "<zero-pad>"])
    ann, zero = tokenizer.convert_tokens_to_ids(["<ann>", "<zero-pad>"])
    photos = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS) for path in dataset.concept.images]
    pixels = torch.stack([torch.from_numpy(np.array(photo)) for photo in photos]).permute(0, 3, 1, 2)
    with torch.no_grad():
        latents = theirs.vae.encode(pixels / 127.5 - 1).latent * theirs.vae.config.scaling_factor
    magnitude, (mu,) = table.norm(dim=-1).mean(), normalize(table[cat], dim=-1)
    v = mu.clone()
    for batch in batches:
        prompts = [cfg.templates.prompts[int(k)].replace("{}", "<ann>") for k in batch.template]
        padded = ["<zero-pad>" * n + prompt.lower() for n, prompt in zip(batch.zeros, prompts, strict=True)]
        read = tokenizer(padded, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        v.requires_grad_()
        rows = torch.cat([table, torch.zeros(2, DIM)]).index_put((torch.tensor(ann),), magnitude * v)
        assert not rows[zero].any()
        hidden = theirs.text_encoder(
            inputs_embeds=rows[read.input_ids] * math.sqrt(DIM), attention_mask=read.attention_mask
        ).last_hidden_state
        sigma = ((batch.t + 1) / 1000).view(-1, 1, 1, 1)
        x = latents[batch.image]
        predicted = theirs.transformer(
            (1 - sigma) * x + sigma * batch.noise,
            encoder_hidden_states=hidden,
            encoder_attention_mask=read.attention_mask,
            timestep=batch.t + 1.0,
        ).sample
        loss = (predicted - (batch.noise - x)).square().mean() - 1e-3 * mu @ v
        (g,) = torch.autograd.grad(loss, v)
        v = v.detach()
        g = g - (g @ v) * v
        v = normalize(v - 0.04 * g / g.norm(), dim=0)
    assert max(int(batch.zeros.max()) for batch in batches) > 0
    torch.testing.assert_close(learned, magnitude * v, rtol=1e-4, atol=1e-5)
    counts = torch.cat([dataset[step].zeros for step in range(1000)]).bincount(minlength=16)
    expected = [math.exp(-n / 2) - (math.exp(-(n + 1) / 2) if n < 15 else 0) for n in range(16)]
    torch.testing.assert_close(counts / 4000, torch.tensor(expected), rtol=0, atol=0.02)


def test_as_published_pads_no_other_method(
    published: Callable[..., tuple[torch.Tensor, list[Batch], ConceptDataset, DictConfig]],
) -> None:
    _, batches, _, cfg = published("method=ti")
    assert not torch.cat([batch.zeros for batch in batches]).any()
    cfg.backbone.as_published = False
    assert "as_published" not in hashed(cfg)["backbone"]  # older runs keep their hash


def test_as_published_draws_with_the_autoencoder_in_bfloat16_alone(
    sana_checkpoint: Path, backbone: Sana, pipeline: SanaPipeline, learned: torch.Tensor
) -> None:
    published = Sana("sana", str(sana_checkpoint), None, as_published=True)
    words, settings = {"<x>": {ENCODER: learned}}, {"steps": 2, "guidance": 4.5}
    (ours,) = published.generate([PROMPT], words, [5], **settings)
    rounded = SanaPipeline(**pipeline.components | {"vae": deepcopy(pipeline.vae).to(torch.bfloat16)})
    rounded.set_progress_bar_config(disable=True)
    theirs = drawn_by_diffusers(rounded)
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    (exact,) = Sana("sana", str(sana_checkpoint), None, instruction="as_published").generate(
        [PROMPT], words, [5], **settings
    )
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(exact)).max() > 0
    pixels = torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(published.encode_images(pixels).mean, backbone.encode_images(pixels).mean)


def test_as_published_has_an_instruction_of_its_own(sana_checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"leave out backbone\.instruction"):
        Sana("sana", str(sana_checkpoint), None, instruction="none", as_published=True)


def test_latents_are_those_of_the_pipelines_autoencoder(backbone: Sana, pipeline: SanaPipeline) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    latents = backbone.encode_images(pixels)
    with torch.no_grad():
        torch.testing.assert_close(latents.mean, pipeline.vae.encode(pixels).latent * 0.41407)
    assert not bool(latents.std.any())


def test_placeholders_that_differ_in_capitals_only_are_refused(backbone: Sana) -> None:
    with pytest.raises(InputError, match="<Ann>, <ann>"):
        backbone.tokenize(["a <Ann> and a <ann>"], {"<Ann>": 1, "<ann>": 1})
