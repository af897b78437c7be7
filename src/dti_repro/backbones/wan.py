"""Wan 2.1 text to video (Wan Team 2025) as a text-to-image model: videos of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Unpack

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, ModelMixin, WanPipeline, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from pydantic import Field, PositiveFloat
from torch import Tensor
from transformers import UMT5EncoderModel

from dti_repro.backbones.base import Conditioning, LatentDistribution, Tokens, TokenVectors
from dti_repro.backbones.checkpoint import model_index
from dti_repro.backbones.flow_matching import ENCODER, FlowMatching
from dti_repro.backbones.frozen_model import FrozenSettings
from dti_repro.backbones.text_encoder import EncoderConfig
from dti_repro.errors import InputError

LENGTH = 512  # tokens of a prompt, as in WanPipeline; the transformer reads the zeros after a shorter one


class Wan(FlowMatching):
    """Conditioned on UMT5's last hidden states, which are zero after the prompt's end.

    Latents are the mode of the VAE's posterior, as in the DTI paper's code. Images are 832 x 480 unless width and
    height are given, as in the pipeline. If punctuation follows a placeholder, UMT5's tokenizer puts a piece of a space
    in between, as after all added tokens; after a word it would not.
    """

    SIDE: ClassVar[int] = 16
    ENCODERS: ClassVar[Mapping[str, EncoderConfig]] = {
        ENCODER: EncoderConfig("tokenizer", UMT5EncoderModel, length=LENGTH, spaced=True)
    }
    DENOISER_CLASS: ClassVar[type[ModelMixin]] = WanTransformer3DModel
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]] = WanPipeline
    VAE_CLASS: ClassVar[type[ModelMixin]] = AutoencoderKLWan

    def __init__(
        self,
        name: str,
        path: str,
        resolution: Annotated[int, Field(gt=0, description="a multiple of 16, such as 512,")],
        flow_shift: PositiveFloat | None = None,
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, flow_shift, **frozen)
        index = model_index(self.folder)
        if index.get("transformer_2", [None])[0] or index.get("expand_timesteps"):
            raise InputError(f"backbone.path {self.folder} is Wan 2.2: this backbone is for Wan 2.1")
        for statistic in ("mean", "std"):
            values = torch.tensor(self.vae.config[f"latents_{statistic}"]).view(1, -1, 1, 1, 1)
            self.register_buffer(f"latents_{statistic}", values, persistent=False)

    @property
    def factor(self) -> int:
        return self.vae.config.scale_factor_spatial

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        hidden = self._outputs(tokens, vectors)[ENCODER].last_hidden_state
        return Conditioning(torch.where(self._mask(tokens)[..., None] > 0, hidden, 0))

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        with torch.no_grad():
            mode = self.vae.encode(pixels[:, :, None].to(self.device, self.vae.dtype)).latent_dist.mode()
        latents = (mode - self.latents_mean) / self.latents_std
        return LatentDistribution(latents, torch.zeros_like(latents))

    @staticmethod
    def _clean(text: str) -> str:
        return prompt_clean(text)

    def _velocity(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return self.denoiser(
            noisy, timestep=time, encoder_hidden_states=conditioning.hidden.to(noisy.dtype), return_dict=False
        )[0]

    def _generate_pixels(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        given = {key: value for key, value in arguments.items() if value is not None}
        return pipeline(num_frames=1, **given).frames[:, 0]
