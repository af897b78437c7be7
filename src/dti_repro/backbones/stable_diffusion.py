"""Stable Diffusion 1.x and 2.x, and the toybox, which has their format: a CLIP text encoder, a UNet, a VAE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Unpack

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

from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import Conditioning, LatentDistribution, Support, Tokens, TokenVectors
from dti_repro.backbones.cross_attention import recording, set_layer_processors
from dti_repro.backbones.frozen_model import FrozenSettings
from dti_repro.backbones.location import locate
from dti_repro.backbones.single_file import is_single_file
from dti_repro.backbones.text_encoder import EncoderConfig, with_bypass
from dti_repro.errors import InputError

ENCODER = "text_encoder"


class LatentDiffusion(Backbone):
    """A UNet that is trained to predict the noise or v; Stable Diffusion 1.x, 2.x and XL share it. Subclasses say how
    prompts become conditioning. path: also a single .safetensors file, with config as in `converted`. resolution None:
    the size that the UNet was trained on."""

    DENOISER: ClassVar[str] = "unet"
    SUPPORTS: ClassVar[frozenset[Support]] = frozenset({"layer", "timestep", "attention"})
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
        first = next(iter(self.text_encoders.values()))
        self._processors = set_layer_processors(self.denoiser, first.tokenizer.length)
        self.spec = replace(self.spec, layers=self._processors[-1].layers)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @abstractmethod
    def _read(
        self, tokens: Tokens, vectors: TokenVectors, bypass: TokenVectors
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Encode tokens with vectors, each a batch of one layer. Return what the keys are made of, what the values are
        made of where there is a bypass, and the pooled vector where there is one."""

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        prompts = len(next(iter(tokens.ids.values())))
        vectors = vectors or {}
        layers = max((rows.shape[1] for rows in vectors.values()), default=1)
        if layers not in (1, self.spec.layers):
            raise InputError(
                f"method: it has vectors for {layers} layers, and {self.spec.name} has {self.spec.layers} layers of "
                "cross-attention: choose another method, or train the word on this backbone"
            )
        if layers > 1:
            tokens = tokens.repeat(layers)
            vectors = {n: rows.expand(prompts, -1, -1, -1).flatten(0, 1)[:, None] for n, rows in vectors.items()}
        dims = {name: encoder.dim for name, encoder in self.spec.encoders.items()}
        bypass = {name: rows[..., dims[name] :] for name, rows in vectors.items() if rows.shape[-1] > dims[name]}
        vectors = {name: rows[..., : dims[name]] for name, rows in vectors.items()}
        keys, values, pooled = self._read(tokens, vectors, bypass)
        hidden = keys.view(prompts, -1, keys.shape[-1])
        if values is not None:
            values = values.view(prompts, -1, values.shape[-1])
            copies = self.spec.layers if layers == 1 else 1
            hidden = torch.cat([hidden.repeat(1, copies, 1), values.repeat(1, copies, 1)], dim=1)
        if pooled is not None:  # one for the whole UNet: that of the layer in the middle
            pooled = pooled.view(prompts, layers, -1)[:, layers // 2]
        return Conditioning(hidden, pooled)

    def attention_maps(self) -> AbstractContextManager[list[Tensor]]:
        return recording(self._processors)

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        with torch.no_grad():
            posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        shift = self.vae.config.shift_factor or 0.0
        scale = self.vae.config.scaling_factor
        return LatentDistribution((posterior.mean.float() - shift) * scale, posterior.std.float() * scale)

    def _predict(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        noisy = self.training_scheduler.add_noise(latents, noise, t).to(self.denoiser.dtype)
        inputs = {"encoder_hidden_states": conditioning.hidden, **self._unet_inputs(latents, conditioning)}
        predicted = self.denoiser(noisy, t, return_dict=False, **inputs)[0]
        match self.training_scheduler.config.prediction_type:
            case "epsilon":
                return predicted, noise
            case "v_prediction":
                return predicted, self.training_scheduler.get_velocity(latents, noise, t)
            case other:
                raise InputError(f"{self.spec.name}: prediction type '{other}' is neither epsilon nor v_prediction")

    def _unet_inputs(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Return what the UNet takes besides latents, time and hidden states."""
        return {}


class StableDiffusion(LatentDiffusion):
    """Conditioned on the last hidden states of the text encoder."""

    ENCODERS: ClassVar[Mapping[str, EncoderConfig]] = {ENCODER: EncoderConfig("tokenizer", CLIPTextModel)}
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]] = StableDiffusionPipeline
    PIPELINE_OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )

    def _read(
        self, tokens: Tokens, vectors: TokenVectors, bypass: TokenVectors
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        output = self._outputs(tokens, vectors, output_hidden_states=bool(bypass))[ENCODER]
        if not bypass:
            return output.last_hidden_state, None, None
        states = with_bypass(output.hidden_states[-1], tokens.positions[ENCODER], bypass[ENCODER])
        return output.last_hidden_state, self.text_encoders[ENCODER].model.final_layer_norm(states), None
