"""What Stable Diffusion 1.x, 2.x and XL share: CLIP text encoders, a UNet and a VAE, trained to predict the noise
or v."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from torch import Tensor

from dti_repro.backbones.base import Conditioning, LatentDistribution
from dti_repro.backbones.diffusers_base import DiffusersBackbone, FrozenSettings
from dti_repro.errors import InputError


class LatentDiffusion(DiffusersBackbone):
    """Subclasses say how prompts become conditioning. resolution None: what the UNet was made for."""

    DENOISER: ClassVar[str] = "unet"
    DENOISER_CLASS: ClassVar[type[ModelMixin]] = UNet2DConditionModel
    VAE_CLASS: ClassVar[type[ModelMixin]] = AutoencoderKL

    def __init__(self, name: str, path: str | None, resolution: int | None, **frozen: Unpack[FrozenSettings]) -> None:
        super().__init__(name, path, resolution, **frozen)
        for convolutional in (self.unet, self.vae):
            convolutional.to(memory_format=torch.channels_last)
        self.training_scheduler = DDPMScheduler.from_config(self.generation_scheduler.config)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.denoiser

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _extra(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the UNet takes besides latents, time and hidden states."""
        return {}

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

    @classmethod
    def _own_options(cls, own: diffusers.SchedulerMixin, chosen: type[diffusers.SchedulerMixin]) -> dict[str, Any]:
        return {}

    def _pictures(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        return pipeline(**arguments).images
