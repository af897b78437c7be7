"""Wan 2.1 text to video (Wan Team 2025) as a model of pictures: videos of one frame."""

from __future__ import annotations

import json
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
from dti_repro.backbones.diffusers_base import FrozenSettings
from dti_repro.backbones.flow_matching import ENCODER, FlowMatching
from dti_repro.backbones.text_encoder import Part
from dti_repro.errors import InputError

LENGTH = 512  # tokens of a prompt, as WanPipeline draws; the transformer sees the zeros behind shorter ones


class Wan(FlowMatching):
    """Conditioned on UMT5's last hidden states, zero behind the prompt's end.

    Latents are the mode of the VAE's posterior, as in the DTI paper's code. Pictures are 832 x 480 unless width and
    height are given, as the pipeline's. Of a placeholder that punctuation follows at once, UMT5's tokenizer puts a
    piece of a space in between, which it would not behind a word: that is how it treats added tokens.
    """

    SIDE: ClassVar[int] = 16
    ENCODERS: ClassVar[Mapping[str, Part]] = {ENCODER: Part("tokenizer", UMT5EncoderModel, length=LENGTH, spaced=True)}
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
        index = json.loads((self.folder / "model_index.json").read_text())
        if index.get("transformer_2", [None])[0] or index.get("expand_timesteps"):
            raise InputError(f"backbone.path {self.folder} is Wan 2.2: this backbone is for Wan 2.1")
        for statistic in ("mean", "std"):
            of_channels = torch.tensor(self.vae.config[f"latents_{statistic}"]).view(1, -1, 1, 1, 1)
            self.register_buffer(f"latents_{statistic}", of_channels, persistent=False)

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

    def _pictures(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        given = {key: value for key, value in arguments.items() if value is not None}
        return pipeline(num_frames=1, **given).frames[:, 0]
