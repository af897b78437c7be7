"""Stable Diffusion 1.x and 2.x, and the toybox, which has their format: a CLIP text encoder, a UNet, a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiffusionPipeline,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel

from dti_repro.backbones.base import Conditioning, LatentDistribution, Tokens, TokenVectors
from dti_repro.backbones.diffusers_base import DiffusersBackbone, FrozenSettings
from dti_repro.backbones.location import locate
from dti_repro.backbones.single_file import is_single_file
from dti_repro.backbones.text_encoder import EncoderConfig, InjectedEmbedding
from dti_repro.errors import InputError
from dti_repro.losses.weighting import weighted_mean

ENCODER = "text_encoder"


class LatentDiffusion(DiffusersBackbone):
    """A UNet that is trained to predict the noise or v; Stable Diffusion 1.x, 2.x and XL share it. Subclasses say how
    prompts become conditioning. path: also a single .safetensors file, with config as in `convert`. resolution None:
    the size that the UNet was trained on."""

    DENOISER: ClassVar[str] = "unet"
    DENOISER_CLASS: ClassVar[type[ModelMixin]] = UNet2DConditionModel
    VAE_CLASS: ClassVar[type[ModelMixin]] = AutoencoderKL

    def __init__(
        self,
        name: str,
        path: str | None,
        resolution: int | None,
        config: str | None = None,
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        if is_single_file(path):
            path = str(locate(path, config=config))
        super().__init__(name, path, resolution, **frozen)
        for convolutional in (self.denoiser, self.vae):
            convolutional.to(memory_format=torch.channels_last)
        self.training_scheduler = DDPMScheduler.from_config(self.generation_scheduler.config)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        shift = self.vae.config.shift_factor or 0.0
        scale = self.vae.config.scaling_factor
        return LatentDistribution((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    def loss(
        self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning, weight: Tensor | None = None
    ) -> Tensor:
        noisy = self.training_scheduler.add_noise(latents, noise, t).to(self.denoiser.dtype)
        inputs = {"encoder_hidden_states": conditioning.hidden, **self._unet_inputs(latents, conditioning)}
        predicted = self.denoiser(noisy, t, return_dict=False, **inputs)[0]
        match self.training_scheduler.config.prediction_type:
            case "epsilon":
                target = noise
            case "v_prediction":
                target = self.training_scheduler.get_velocity(latents, noise, t)
            case other:
                raise InputError(f"{self.spec.name}: prediction type '{other}' is neither epsilon nor v_prediction")
        error = (predicted.float() - target.float()).square()
        return error.mean(dim=(1, 2, 3)) if weight is None else weighted_mean(error, weight)

    def _unet_inputs(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Return what the UNet takes besides latents, time and hidden states."""
        return {}

    def _generate_pixels(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        return pipeline(**arguments).images


class StableDiffusion(LatentDiffusion):
    """Conditioned on the last hidden states of the text encoder."""

    ENCODERS: ClassVar[Mapping[str, EncoderConfig]] = {ENCODER: EncoderConfig("tokenizer", CLIPTextModel)}
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]] = StableDiffusionPipeline
    PIPELINE_OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )

    @property
    def text_encoder(self) -> CLIPTextModel:
        return self.text_encoders[ENCODER].model

    @property
    def embedding(self) -> InjectedEmbedding:
        return self.text_encoders[ENCODER].embedding

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        return Conditioning(self._outputs(tokens, vectors)[ENCODER].last_hidden_state)
