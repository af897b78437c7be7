"""Stable Diffusion 1.x and 2.x, and the toybox, which has their format: one CLIP text encoder, a UNet, a
VAE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from dti_repro.backbones.backbone import (
    Backbone,
    BackboneSpec,
    Conditioning,
    EncoderSpec,
    LatentDistribution,
    Start,
    Tokens,
    TokenVectors,
)
from dti_repro.backbones.checkpoint import initializer_ids, locate
from dti_repro.backbones.injection import InjectedEmbedding
from dti_repro.backbones.tokens import PlaceholderTokenizer
from dti_repro.errors import InputError

ENCODER = "text_encoder"


class StableDiffusion(Backbone):
    """Loaded from a folder through diffusers, in float32.

    name: its folder below `runs`. path: the checkpoint's folder, None for the packaged toybox. resolution:
    pixels of a training image, None for what the UNet was made for.
    """

    def __init__(self, name: str, path: str | None, resolution: int | None) -> None:
        super().__init__()
        folder = locate(path)
        load = {"torch_dtype": torch.float32, "local_files_only": True}
        self.tokenizer = PlaceholderTokenizer(
            AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        )
        self.text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32, local_files_only=True
        )
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", **load)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **load)
        self.unet.to(memory_format=torch.channels_last)
        self.generation_scheduler = _own_scheduler(folder)
        self.training_scheduler = DDPMScheduler.from_config(self.generation_scheduler.config)
        table = self.text_encoder.get_input_embeddings()
        self.embedding = InjectedEmbedding(table, self.tokenizer.vocabulary)
        self.text_encoder.set_input_embeddings(self.embedding)
        self.requires_grad_(False).eval()
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        attentions = sum(name.endswith("attn2") for name, _ in self.unet.named_modules())
        self.spec = BackboneSpec(
            name=name,
            encoders={ENCODER: EncoderSpec.of(table.weight)},
            cross_attention_layers=attentions,
            resolution=resolution or self.unet.config.sample_size * factor,
            timesteps=self.training_scheduler.config.num_train_timesteps,
        )

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def start(self, concept: str, initializer: str, seed: int) -> Start:
        tokenizer = self.tokenizer.tokenizer
        ids = initializer_ids(tokenizer, initializer)
        rows = self.embedding.table.weight[ids]
        if not ids or not bool(rows.any(dim=-1).all()):
            raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {self.spec.name}")
        alone = self.tokenize([initializer], {})
        with torch.no_grad():
            states = self.encode_text(alone).hidden[0, 1 : 1 + len(ids)]  # after the start token
        return Start(concept, seed, {ENCODER: rows.clone()}, {ENCODER: states.clone()})

    def tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int]) -> Tokens:
        ids, slots = self.tokenizer(prompts, placeholders)
        return Tokens({ENCODER: ids}, {ENCODER: slots})

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        tokens = tokens.to(self.device)
        if vectors is None:
            return Conditioning(self.text_encoder(tokens.ids[ENCODER]).last_hidden_state)
        with self.embedding.reading(tokens.slots[ENCODER], vectors[ENCODER][:, 0]):
            return Conditioning(self.text_encoder(tokens.ids[ENCODER]).last_hidden_state)

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(self.device)).latent_dist
        shift = self.vae.config.shift_factor or 0.0
        scale = self.vae.config.scaling_factor
        return LatentDistribution((posterior.mean - shift) * scale, posterior.std * scale)

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        noisy = self.training_scheduler.add_noise(latents, noise, t)
        predicted = self.unet(noisy, t, encoder_hidden_states=conditioning.hidden, return_dict=False)[0]
        match self.training_scheduler.config.prediction_type:
            case "epsilon":
                target = noise
            case "v_prediction":
                target = self.training_scheduler.get_velocity(latents, noise, t)
            case other:
                raise InputError(f"{self.spec.name}: prediction type '{other}' is neither epsilon nor v_prediction")
        return (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Mapping[str, Tensor]],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
        sampler: str = "default",
        sampler_options: Mapping[str, Any] = MappingProxyType({}),
        height: int | None = None,
        width: int | None = None,
    ) -> list[Image.Image]:
        counts = {placeholder: len(rows[ENCODER]) for placeholder, rows in vectors.items()}
        tokens = self.tokenize(prompts, counts)
        learned = None
        if vectors:
            rows = torch.cat([rows[ENCODER] for rows in vectors.values()]).to(self.device, torch.float32)
            learned = {ENCODER: rows[None, None].expand(len(prompts), -1, -1, -1)}
        conditional = self.encode_text(tokens, learned).hidden
        unconditional = self.encode_text(self.tokenize([negative_prompt], {})).hidden.expand_as(conditional)
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer.tokenizer,
            unet=self.unet,
            scheduler=self._sampler(sampler, sampler_options),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt_embeds=conditional,
            negative_prompt_embeds=unconditional,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=height,
            width=width,
        ).images

    def _sampler(self, name: str, options: Mapping[str, Any]) -> diffusers.SchedulerMixin:
        config = self.generation_scheduler.config
        if name == "default":
            return type(self.generation_scheduler).from_config(config)
        return _scheduler_class(name).from_config(config)


def _own_scheduler(folder: Path) -> diffusers.SchedulerMixin:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return _scheduler_class(config["_class_name"]).from_config(config)


def _scheduler_class(name: str) -> type[diffusers.SchedulerMixin]:
    scheduler = getattr(diffusers, name, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"unknown sampler '{name}': `default` or a diffusers scheduler such as DDIMScheduler")
    return scheduler
