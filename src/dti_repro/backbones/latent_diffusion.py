"""What Stable Diffusion 1.x, 2.x and XL share: CLIP text encoders, a UNet and a VAE, trained to predict the noise
or v."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

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
from dti_repro.backbones.checkpoint import locate, require
from dti_repro.backbones.text_encoder import TextEncoder
from dti_repro.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Part(NamedTuple):
    """A text encoder of a checkpoint: the folder of its tokenizer, its class in transformers."""

    tokenizer: str
    architecture: type[PreTrainedModel]


class LatentDiffusion(Backbone):
    """Loaded from a folder or the Hub through diffusers; subclasses say how prompts become conditioning.

    name: its folder below `runs`. path: the checkpoint's folder or id on the Hub, None for the packaged toybox.
    resolution: pixels of a training image, None for what the UNet was made for. dtype: of the frozen weights,
    float32 or bfloat16; what is learned stays float32. revision: of a Hub id.
    """

    ENCODERS: ClassVar[Mapping[str, Part]]

    def __init__(
        self, name: str, path: str | None, resolution: int | None, dtype: str = "float32", revision: str = "main"
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise InputError(f"backbone.dtype '{dtype}' is none of {', '.join(DTYPES)}")
        self.folder = locate(path, revision)
        require(self.folder, [*self.ENCODERS, *(part.tokenizer for part in self.ENCODERS.values()), "unet", "vae"])
        load = {"torch_dtype": DTYPES[dtype], "local_files_only": True}
        self.text_encoders = nn.ModuleDict(
            {
                encoder: TextEncoder(self.folder, encoder, part.tokenizer, part.architecture, DTYPES[dtype])
                for encoder, part in self.ENCODERS.items()
            }
        )
        self.vae = AutoencoderKL.from_pretrained(self.folder / "vae", **load)
        self.unet = UNet2DConditionModel.from_pretrained(self.folder / "unet", **load)
        self.unet.to(memory_format=torch.channels_last)
        self.generation_scheduler = _own_scheduler(self.folder)
        self.training_scheduler = DDPMScheduler.from_config(self.generation_scheduler.config)
        self.requires_grad_(False).eval()
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # pixels per latent, along a side
        attentions = sum(module.endswith("attn2") for module, _ in self.unet.named_modules())
        self.spec = BackboneSpec(
            name=name,
            encoders={encoder: EncoderSpec.of(module.table) for encoder, module in self.text_encoders.items()},
            cross_attention_layers=attentions,
            resolution=resolution or self.unet.config.sample_size * self.factor,
            timesteps=self.training_scheduler.config.num_train_timesteps,
        )

    @abstractmethod
    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning: ...

    @abstractmethod
    def _pipeline(self, scheduler: diffusers.SchedulerMixin) -> DiffusionPipeline:
        """diffusers' pipeline around our parts."""

    def _extra(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the UNet takes besides latents, time and hidden states."""
        return {}

    def _unconditional(self, negative_prompt: str) -> Conditioning:
        return self.encode_text(self.tokenize([negative_prompt], {}))

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def start(self, concept: str, initializer: str, seed: int) -> Start:
        rows = {name: encoder.rows(initializer) for name, encoder in self.text_encoders.items()}
        alone = self.tokenize([initializer], {}).to(self.device)
        with torch.no_grad():
            states = {  # after the start token
                name: encoder(alone.ids[name]).last_hidden_state[0, 1 : 1 + len(rows[name])].float().clone()
                for name, encoder in self.text_encoders.items()
            }
        return Start(concept, seed, rows, states)

    def tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int]) -> Tokens:
        both = {name: encoder.tokenizer(prompts, placeholders) for name, encoder in self.text_encoders.items()}
        return Tokens({k: ids for k, (ids, _) in both.items()}, {k: slots for k, (_, slots) in both.items()})

    def _outputs(self, tokens: Tokens, vectors: TokenVectors | None, **options: Any) -> dict[str, Any]:
        """Each text encoder's own output."""
        tokens = tokens.to(self.device)
        learned = {} if vectors is None else {name: rows[:, 0] for name, rows in vectors.items()}
        return {
            name: encoder(tokens.ids[name], tokens.slots[name], learned.get(name), **options)
            for name, encoder in self.text_encoders.items()
        }

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        shift = self.vae.config.shift_factor or 0.0
        scale = self.vae.config.scaling_factor
        return LatentDistribution((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        noisy = self.training_scheduler.add_noise(latents, noise, t).to(self.unet.dtype)
        extra = self._extra(latents, conditioning)
        predicted = self.unet(noisy, t, encoder_hidden_states=conditioning.hidden, return_dict=False, **extra)[0]
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
        counts = {placeholder: len(next(iter(rows.values()))) for placeholder, rows in vectors.items()}
        tokens = self.tokenize(prompts, counts)
        conditional = self.encode_text(tokens, self._learned(vectors, len(prompts)) if vectors else None)
        unconditional = self._unconditional(negative_prompt)
        pipeline = self._pipeline(self._sampler(sampler, sampler_options))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            **_embeds("", conditional, len(prompts)),
            **_embeds("negative_", unconditional, len(prompts)),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=height,
            width=width,
        ).images

    def _learned(self, vectors: Mapping[str, Mapping[str, Tensor]], prompts: int) -> TokenVectors:
        rows = {name: torch.cat([own[name] for own in vectors.values()]) for name in self.text_encoders}
        return {
            name: own.to(self.device, torch.float32)[None, None].expand(prompts, -1, -1, -1)
            for name, own in rows.items()
        }

    def _sampler(self, name: str, options: Mapping[str, Any]) -> diffusers.SchedulerMixin:
        chosen = type(self.generation_scheduler) if name == "default" else _scheduler_class(name)
        return chosen.from_config(self.generation_scheduler.config, **options)


def _embeds(prefix: str, conditioning: Conditioning, prompts: int) -> dict[str, Tensor]:
    """Conditioning as a pipeline's arguments, one row broadcast to all prompts."""
    embeds = {f"{prefix}prompt_embeds": conditioning.hidden.expand(prompts, -1, -1)}
    if conditioning.pooled is not None:
        embeds[f"{prefix}pooled_prompt_embeds"] = conditioning.pooled.expand(prompts, -1)
    return embeds


def _own_scheduler(folder: Path) -> diffusers.SchedulerMixin:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return _scheduler_class(config["_class_name"]).from_config(config)


def _scheduler_class(name: str) -> type[diffusers.SchedulerMixin]:
    scheduler = getattr(diffusers, name, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise InputError(f"unknown sampler '{name}': `default` or a diffusers scheduler such as DDIMScheduler")
    return scheduler
