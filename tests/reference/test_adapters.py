"""Adapters against peft's and diffusers' own loaders, and the objective against what its papers write."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    SanaTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, PeftModel
from PIL import Image, ImageChops
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from dti_repro.adapters.files import loaded
from dti_repro.adapters.folder import CONFIG, DIFFUSERS_LORA, WEIGHTS, adapter_folder
from dti_repro.adapters.lora import LoRA
from dti_repro.artifacts.embedding import load_embedding
from dti_repro.artifacts.run_dir import ConceptFolder
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.load import load_backbone
from dti_repro.backbones.sana import Sana
from dti_repro.backbones.sdxl import StableDiffusionXL
from dti_repro.backbones.stable_diffusion import ENCODER, StableDiffusion
from dti_repro.backbones.wan import Wan
from dti_repro.config import CONF
from dti_repro.data.concept import Toybox
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.randomness import generator
from dti_repro.data.views import Framing
from dti_repro.losses.objectives import DCO, DiffusionLoss, Objective
from dti_repro.training.batches import ConceptDataset
from dti_repro.training.train_missing import train
from tests.tiny import build_tiny_sdxl
from tests.tiny_flow import SIDE

Training = Callable[..., DictConfig]
TARGETS = ["to_q", "to_k", "to_v"]


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> StableDiffusion:
    return StableDiffusion("toybox", str(checkpoint), None)


def lora(objective: Objective) -> LoRA:
    return LoRA(rank=4, alpha=None, targets=TARGETS, lr=5e-5, weight_decay=0.0, objective=objective)


def test_dco_is_its_formula_and_pulls_less_at_what_is_already_gained() -> None:
    """Lee et al. 2024: the gradient of the loss is that of the diffusion loss times beta sigmoid(beta (L - L_ref))."""
    loss = torch.tensor([0.2, 0.3], requires_grad=True)
    reference = torch.tensor([0.2, 0.301])
    asked = []
    value = DCO(1000, "class")(loss, lambda class_word: asked.append(class_word) or reference)
    torch.testing.assert_close(value, torch.tensor([math.log(2), math.log(1 + math.exp(-1))]), rtol=1e-3, atol=0)
    value.sum().backward()
    expected = 1000 * torch.sigmoid(1000 * (loss.detach() - reference))
    torch.testing.assert_close(loss.grad, expected)
    assert asked == [True]
    DCO(1000, "word")(loss, lambda class_word: asked.append(class_word) or reference)
    assert asked == [True, False]


@pytest.mark.parametrize("prompt", ["word", "class"])
def test_the_reference_is_the_model_without_adapter_and_without_gradient(
    backbone: StableDiffusion, prompt: str
) -> None:
    """Written out on a copy of the model: DCO's loss and its gradients in the adapter's weights and in the vectors."""
    random = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=random).unbind()
    vectors = torch.randn(1, 1, 1, 32, generator=random) * 0.05
    t = torch.tensor([10, 500, 900])
    word = backbone.tokenize(["a photo of a <x>"] * 3, {"<x>": 1})
    plain = backbone.encode_text(backbone.tokenize(["a photo of a cat"] * 3, {}))

    def mean_loss(learned: Tensor, class_word: bool) -> Tensor:
        given = plain if class_word else backbone.encode_text(word, {ENCODER: learned.expand(3, -1, -1, -1)})
        return backbone.loss(latents, noise, t, given).mean()[None]

    without = mean_loss(vectors, prompt == "class")
    adapter, learned = lora(DCO(1000, prompt)), vectors.clone().requires_grad_()
    with adapter.attached(backbone, generator("x")):
        weights = dict(adapter.with_weights(nn.Module()).named_parameters())
        filled = {name: torch.randn(rows.shape, generator=random) * 0.1 for name, rows in weights.items()}
        with torch.no_grad():
            for name, rows in weights.items():
                rows.copy_(filled[name])
        loss = mean_loss(learned, False)
        adapter.objective(loss, lambda class_word: mean_loss(learned, class_word)).sum().backward()
        gradients = {name: rows.grad.clone() for name, rows in weights.items()}
    assert not torch.equal(loss.detach(), mean_loss(vectors, False))
    again, other = lora(DiffusionLoss()), vectors.clone().requires_grad_()
    with again.attached(backbone, generator("y")):
        weights = dict(again.with_weights(nn.Module()).named_parameters())
        with torch.no_grad():
            for name, rows in weights.items():
                rows.copy_(filled[name])
        (-logsigmoid(-1000 * (mean_loss(other, False) - without))).sum().backward()
        for name, rows in weights.items():
            torch.testing.assert_close(gradients[name], rows.grad)
    torch.testing.assert_close(learned.grad, other.grad)
    assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())


def test_lora_starts_at_the_model_and_from_the_seed(backbone: StableDiffusion) -> None:
    inputs = torch.randn(1, 4, 4, 4), torch.tensor([500]), torch.randn(1, 24, 32)
    plain, state, starts = backbone.denoiser(*inputs).sample, torch.get_rng_state(), []
    for key in ("a", "a", "b"):
        adapter = lora(DiffusionLoss())
        with adapter.attached(backbone, generator(key)):
            assert torch.equal(backbone.denoiser(*inputs).sample, plain)
            starts.append(torch.cat([p.detach().flatten() for p in adapter.with_weights(nn.Module()).parameters()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(torch.get_rng_state(), state)  # of whoever else draws from it
    drawn = starts[0][starts[0] != 0]
    assert drawn.std().item() == pytest.approx(1 / 4, rel=0.05)


@pytest.mark.parametrize("method", ["dti", "ti"])
def test_a_training_is_the_loop_written_out_with_diffusers_and_peft(
    method: str, training: Training, checkpoint: Path
) -> None:
    """A step of a LoRA at the diffusion loss, the samples being ours and everything else theirs."""
    keys = [f"method={method}", "adapter=lora", "adapter/objective=diffusion", "adapter.lr=0.01", "trainer.batch=1"]
    folder = train(training(*keys, "trainer.steps=1"))[0]
    cfg = training(*keys)
    own = load_backbone(cfg.backbone, "cpu")
    (concept,) = Toybox(["ann"], root=cfg.concepts.root).load()
    initializer = own.embed_initializer("ann", concept.initializer, 42)
    texts = cfg.templates.prompts, []
    dataset = ConceptDataset(own, concept, initializer, *texts, 42, 1, LatentCache(None, {}), Framing())
    batch = dataset[0]
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet").requires_grad_(False)
    torch.manual_seed(generator(42, "ann", "adapter").initial_seed())
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=TARGETS))
    theirs = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(theirs.values(), lr=0.01, weight_decay=0.01)
    latents = dataset.latents.sample(batch.image, batch.latent_noise)
    scheduler = DDIMScheduler.from_pretrained(checkpoint / "scheduler")
    start = dataset.initializer.rows[ENCODER]
    scale = own.spec.encoders[ENCODER].norms["mean"] / start.norm() if method == "dti" else 1.0
    hidden = own.encode_text(dataset.tokens[batch.template], {ENCODER: start[None, None] * scale}).hidden
    predicted = unet(scheduler.add_noise(latents, batch.noise, batch.t), batch.t, hidden).sample
    (predicted - scheduler.get_velocity(latents, batch.noise, batch.t)).square().mean().backward()
    optimizer.step()
    learned = load_file(adapter_folder(folder.embedding) / WEIGHTS)
    assert len(learned) == len(theirs)
    for name, rows in theirs.items():  # AdamW's first step is of length lr, but where a gradient is nearly none
        mine = learned[f"base_model.model.{name.replace('.default', '')}"]
        torch.testing.assert_close(mine, rows.detach(), rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def prompt() -> dict[str, object]:
    return {"prompt": "a <ann> on the beach", "num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "pil"}


def ours(backbone: StableDiffusion, folder: ConceptFolder) -> Image.Image:
    vectors = {"<ann>": {ENCODER: load_embedding(folder.embedding)[1]}}
    with loaded(backbone.denoiser, adapter_folder(folder.embedding)):
        return backbone.generate(["a <ann> on the beach"], vectors, [3], steps=2, guidance=5.0)[0]


def difference(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@pytest.mark.parametrize("keys", [["adapter=lora", "adapter.alpha=9"], ["adapter=oft"]], ids=lambda k: k[0])
def test_the_saved_adapter_draws_the_same_picture_in_diffusers(
    keys: list[str], training: Training, backbone: StableDiffusion, checkpoint: Path, prompt: dict[str, object]
) -> None:
    """peft's format through peft's loader, diffusers' through its pipeline's load_lora_weights."""
    folder = train(training(*keys, "adapter.lr=0.05", "trainer.steps=3"))[0]
    mine = ours(backbone, folder)
    vectors = {"<ann>": {ENCODER: load_embedding(folder.embedding)[1]}}
    assert difference(mine, backbone.generate(["a <ann> on the beach"], vectors, [3], steps=2, guidance=5.0)[0]) > 8

    def pipeline() -> StableDiffusionPipeline:
        made = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
        made.load_textual_inversion(folder.embedding)
        made.set_progress_bar_config(disable=True)
        return made

    place = adapter_folder(folder.embedding)
    through_peft = pipeline()
    PeftModel.from_pretrained(through_peft.unet, place)
    assert difference(mine, through_peft(**prompt, generator=torch.Generator().manual_seed(3)).images[0]) <= 1
    assert (place / DIFFUSERS_LORA).is_file() == ("adapter=lora" in keys)
    if "adapter=lora" in keys:
        through_diffusers = pipeline()
        through_diffusers.load_lora_weights(place)
        assert difference(mine, through_diffusers(**prompt, generator=torch.Generator().manual_seed(3)).images[0]) <= 1


def test_what_peft_itself_saved_is_read(backbone: StableDiffusion, checkpoint: Path, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    theirs = PeftModel(unet, LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False))
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / CONFIG).is_file()
    inputs = torch.randn(1, 4, 4, 4), torch.tensor([500]), torch.randn(1, 24, 32)
    with loaded(backbone.denoiser, tmp_path):
        torch.testing.assert_close(backbone.denoiser(*inputs).sample, unet(*inputs).sample)


@pytest.mark.parametrize("kind", ["sdxl", "sana", "wan"])
def test_a_saved_lora_is_the_same_model_in_the_pipelines_of_every_backbone(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sdxl":
        folder = build_tiny_sdxl(tmp_path / "checkpoint")
        backbone: Backbone = StableDiffusionXL(kind, str(folder), None)
    else:
        folder = request.getfixturevalue(f"{kind}_checkpoint")
        backbone = {"sana": Sana, "wan": Wan}[kind](kind, str(folder), SIDE)
    size = backbone.spec.resolution
    random = torch.Generator().manual_seed(0)
    latents = backbone.encode_images(torch.rand(1, 3, size, size, generator=random) * 2 - 1).mean
    noise = torch.randn(latents.shape, generator=random)

    @torch.no_grad()
    def loss() -> Tensor:
        conditioning = backbone.encode_text(backbone.tokenize(["a photo of a dog"], {}))
        return backbone.loss(latents, noise, torch.tensor([500]), conditioning)

    plain, adapter = loss(), lora(DiffusionLoss())
    with adapter.attached(backbone, generator("x")):
        for rows in adapter.with_weights(nn.Module()).parameters():
            rows.data.copy_(torch.randn(rows.shape, generator=random) * 0.3)
        adapter.save(tmp_path / "embedding.safetensors")
        wanted = loss()
    assert torch.equal(loss(), plain)
    assert not torch.allclose(wanted, plain, rtol=1e-3)
    place = adapter_folder(tmp_path / "embedding.safetensors")
    with loaded(backbone.denoiser, place):
        assert torch.equal(loss(), wanted)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(place)
    backbone.denoiser = getattr(pipeline, backbone.DENOISER).to(backbone.denoiser.dtype)
    torch.testing.assert_close(loss(), wanted)


@pytest.mark.parametrize("kind", [UNet2DConditionModel, SanaTransformer2DModel, WanTransformer3DModel])
@pytest.mark.parametrize("name", ["lora", "oft"])
def test_every_denoiser_has_the_targets_in_both_kinds_of_attention(kind: type[nn.Module], name: str) -> None:
    with torch.device("meta"):
        denoiser = kind()
    for target in [*OmegaConf.load(CONF / "adapter" / f"{name}.yaml").targets, "to_out.0"]:
        found = [(n, m) for n, m in denoiser.named_modules() if n.endswith(f".{target}")]
        assert all(isinstance(module, nn.Linear) for _, module in found)
        assert {n.split(".")[-2 - target.count(".")] for n, _ in found} >= {"attn1", "attn2"}
