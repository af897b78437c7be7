"""SDXL against the pipeline of diffusers and the encoders of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel

from dti_repro.artifacts.embedding import load_embeddings, save_embeddings
from dti_repro.artifacts.run_dir import embedding_files
from dti_repro.backbones.sdxl import CLIP_G, CLIP_L, StableDiffusionXL
from dti_repro.config import validate
from dti_repro.errors import InputError
from dti_repro.launch.command_line import compose
from tests.tiny import DIM, DIM_2, build_tiny_sd, build_tiny_sdxl

PROMPT = "a <x> next to a red mug"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> StableDiffusionXL:
    return StableDiffusionXL("sdxl", str(checkpoint), None)


@pytest.fixture(scope="module")
def pooling_at_the_end(checkpoint: Path) -> StableDiffusionXL:
    return StableDiffusionXL("sdxl", str(checkpoint), None, pool="eos")


@pytest.fixture(scope="module")
def learned() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        CLIP_L: torch.randn(2, DIM, generator=random) * 0.1,
        CLIP_G: torch.randn(2, DIM_2, generator=random) * 0.1,
    }


@pytest.fixture(scope="module")
def pipeline(
    checkpoint: Path, learned: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> StableDiffusionXLPipeline:
    """Fresh, with <x> loaded from our two files as diffusers' documentation says."""
    path = tmp_path_factory.mktemp("learned") / "embedding.safetensors"
    save_embeddings(path, "<x>", learned, {})
    files = embedding_files(path)
    theirs = StableDiffusionXLPipeline.from_pretrained(checkpoint, add_watermarker=False)
    theirs.load_textual_inversion(str(files[CLIP_L]), token="<x>")
    theirs.load_textual_inversion(
        str(files[CLIP_G]), token="<x>", text_encoder=theirs.text_encoder_2, tokenizer=theirs.tokenizer_2
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.mark.parametrize("prompt", ["a red cat left of a ball", PROMPT, "<x>"])
def test_conditioning_is_the_pipelines_own(
    backbone: StableDiffusionXL,
    pipeline: StableDiffusionXLPipeline,
    learned: dict[str, torch.Tensor],
    prompt: str,
) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    tokens = backbone.tokenize([prompt], {"<x>": 2})
    ours = backbone.encode_text(tokens, {name: rows[None, None] for name, rows in learned.items()})
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


def test_a_placeholder_with_a_words_rows_is_that_word_in_both_encoders(pooling_at_the_end: StableDiffusionXL) -> None:
    """Everything after the embeddings is the model's code. `axolotl` is several tokens."""
    backbone = pooling_at_the_end
    for prompt in ("a photo of a {}", "{} on the grass", "a {} left of a {}"):
        for words in ("cat", "axolotl"):
            rows = backbone.embed_initializer("x", words, 0).rows
            tokens = backbone.tokenize([prompt.replace("{}", "<y>")], {"<y>": len(rows[CLIP_L])})
            injected = backbone.encode_text(tokens, {name: vectors[None, None] for name, vectors in rows.items()})
            plain = backbone.encode_text(backbone.tokenize([prompt.replace("{}", words)], {}))
            assert torch.equal(injected.hidden, plain.hidden)
            assert torch.equal(injected.pooled, plain.pooled)


def test_the_pooled_vector_sees_words_after_the_placeholder_only_with_eos(
    backbone: StableDiffusionXL, pooling_at_the_end: StableDiffusionXL, learned: dict[str, torch.Tensor]
) -> None:
    """As diffusers pools, what follows the placeholder drops out of the pooled vector."""
    prompts = ["a <x> on the beach", "a <x> wearing a red hat"]
    vectors = {name: rows[None, None].expand(2, -1, -1, -1) for name, rows in learned.items()}
    for model, same in ((backbone, True), (pooling_at_the_end, False)):
        encoded = model.encode_text(model.tokenize(prompts, {"<x>": 2}), vectors)
        assert torch.equal(encoded.pooled[0], encoded.pooled[1]) == same
        assert not torch.equal(encoded.hidden[0], encoded.hidden[1])
        plain = model.encode_text(model.tokenize(["a cat on the beach", "a cat in a red hat"], {})).pooled
        assert not torch.equal(plain[0], plain[1])


def test_the_initializers_states_are_each_encoders_last(backbone: StableDiffusionXL, checkpoint: Path) -> None:
    initializer = backbone.embed_initializer("x", "cat", 0)
    alone = CLIPTextModel.from_pretrained(checkpoint / "text_encoder")
    ids = backbone.tokenize(["cat"], {}).ids[CLIP_L]
    torch.testing.assert_close(initializer.states[CLIP_L], alone(ids).last_hidden_state[0, 1:2])
    assert initializer.states[CLIP_G].shape == initializer.rows[CLIP_G].shape == (1, DIM_2)


def test_the_loss_is_the_diffusion_loss_written_out(backbone: StableDiffusionXL) -> None:
    """eps-prediction, for uncropped images of 16 x 16."""
    latents, noise = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([10, 900])
    given = backbone.encode_text(backbone.tokenize(["a cat", "a car"], {}))
    alpha = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
    added = {"text_embeds": given.pooled, "time_ids": sizes}
    predicted = backbone.denoiser(noisy, t, given.hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(backbone.loss(latents, noise, t, given), (predicted - noise).square().flatten(1).mean(1))
    added["time_ids"] = sizes * 2
    assert not torch.equal(predicted, backbone.denoiser(noisy, t, given.hidden, added_cond_kwargs=added).sample)


def test_frozen_parts_in_bfloat16_leave_what_is_learned_in_float32(
    checkpoint: Path, learned: dict[str, torch.Tensor]
) -> None:
    backbone = StableDiffusionXL("sdxl", str(checkpoint), None, dtype="bfloat16")
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    initializer = backbone.embed_initializer("x", "cat", 0)
    assert {rows.dtype for rows in (*initializer.rows.values(), *initializer.states.values())} == {torch.float32}
    latents = backbone.encode_images(torch.zeros(1, 3, 16, 16)).sample(torch.tensor([0]), torch.zeros(1, 4, 4, 4))
    vectors = {name: rows[None, None].clone().requires_grad_() for name, rows in learned.items()}
    conditioning = backbone.encode_text(backbone.tokenize([PROMPT], {"<x>": 2}), vectors)
    loss = backbone.loss(latents, torch.randn(1, 4, 4, 4), torch.tensor([500]), conditioning)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert all(rows.grad.dtype == torch.float32 and bool(rows.grad.isfinite().all()) for rows in vectors.values())
    assert len(backbone.generate([PROMPT], {"<x>": learned}, [0], steps=1, guidance=5.0)) == 1


@pytest.mark.parametrize("negative", [None, "snow"])
def test_the_same_picture_as_diffusers(
    backbone: StableDiffusionXL,
    pipeline: StableDiffusionXLPipeline,
    learned: dict[str, torch.Tensor],
    negative: str | None,
) -> None:
    (ours,) = backbone.generate([PROMPT], {"<x>": learned}, [5], steps=2, guidance=5.0, negative_prompt=negative or "")
    theirs = pipeline(
        PROMPT,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


def test_a_run_of_which_one_encoders_file_is_missing_is_not_done(
    tmp_path: Path, learned: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "embedding.safetensors"
    save_embeddings(path, "<x>", learned, {})
    assert set(embedding_files(path)) == {CLIP_L, CLIP_G}
    embedding_files(path)[CLIP_G].unlink()
    assert not embedding_files(path)
    with pytest.raises(InputError, match="not for all"):
        load_embeddings(path)


def test_another_checkpoint_and_unknown_choices_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a StableDiffusionPipeline: choose backbone=sd15 or "):
        StableDiffusionXL("sdxl", str(build_tiny_sd(tmp_path)), None)
    for key, value in (("pool", "first"), ("dtype", "fp16")):
        with pytest.raises(InputError, match=rf"backbone\.{key} is {value}: .* is needed"):
            validate("train", compose("train", ["backbone=sdxl", f"backbone.{key}={value}"]))


def test_the_pooled_vector_does_not_depend_on_the_order_of_first_use(checkpoint: Path) -> None:
    """Placeholders get ids when they are first used, and CLIP's default pools at the largest id of a prompt."""
    vectors = {CLIP_L: torch.randn(1, 1, 2, DIM), CLIP_G: torch.randn(1, 1, 2, DIM_2)}
    counts, pooled = {"<bird>": 1, "<car>": 1}, []
    for first in ("<bird>", "<car>"):
        backbone = StableDiffusionXL("sdxl", str(checkpoint), 32)
        backbone.tokenize([f"a {first}"], {first: 1})
        tokens = backbone.tokenize(["a <bird> left of a <car>"], counts)
        pooled.append(backbone.encode_text(tokens, vectors).pooled)
    assert torch.equal(*pooled)
