"""Stable Diffusion 1.x and 2.x, and the toybox, which has their format: one CLIP text encoder, a UNet, a
VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import diffusers
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from dti_repro.backbones.base import Conditioning, Tokens, TokenVectors
from dti_repro.backbones.injection import InjectedEmbedding
from dti_repro.backbones.latent_diffusion import LatentDiffusion
from dti_repro.backbones.text_encoder import Part

ENCODER = "text_encoder"


class StableDiffusion(LatentDiffusion):
    """Conditioned on the text encoder's last hidden states."""

    ENCODERS: ClassVar[Mapping[str, Part]] = {ENCODER: Part("tokenizer", CLIPTextModel)}

    @property
    def text_encoder(self) -> CLIPTextModel:
        return self.text_encoders[ENCODER].model

    @property
    def embedding(self) -> InjectedEmbedding:
        return self.text_encoders[ENCODER].embedding

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        return Conditioning(self._outputs(tokens, vectors)[ENCODER].last_hidden_state)

    def _pipeline(self, scheduler: diffusers.SchedulerMixin) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.text_encoders[ENCODER].tokenizer.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
