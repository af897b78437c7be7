"""Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders, a pooled vector, size and crop conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Unpack

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dti_repro.backbones.base import Conditioning, Tokens, TokenVectors
from dti_repro.backbones.checkpoint import model_index
from dti_repro.backbones.frozen_model import FrozenSettings
from dti_repro.backbones.stable_diffusion import LatentDiffusion
from dti_repro.backbones.text_encoder import EncoderConfig, with_bypass

CLIP_L, CLIP_G = "text_encoder", "text_encoder_2"


class StableDiffusionXL(LatentDiffusion):
    """Conditioned on the penultimate hidden states of both encoders, the pooled vector of the second one, and sizes.

    pool: the token whose state is the pooled vector. `as_diffusers` leaves it to transformers: with the eos_token_id 2
    of published configs it is the one with the highest id, so the placeholder if there is one, and words after it do
    not reach the pooled vector; the same holds for exported files in diffusers. `eos`: always the first end token.

    sizes: what the UNet is told of a training image. `uncropped`: it is an uncropped image of its size (the pipeline's
    default in generation); `as_published`: the size of its photo, and where it was cut from, as the DTI paper's code.
    """

    ENCODERS: ClassVar[Mapping[str, EncoderConfig]] = {
        CLIP_L: EncoderConfig("tokenizer", CLIPTextModel),
        CLIP_G: EncoderConfig("tokenizer_2", CLIPTextModelWithProjection),
    }
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]] = StableDiffusionXLPipeline
    PIPELINE_OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType({"add_watermarker": False})

    def __init__(
        self,
        name: str,
        path: str,
        resolution: int | None,
        pool: Literal["as_diffusers", "eos"] = "as_diffusers",
        sizes: Literal["uncropped", "as_published"] = "uncropped",
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, **frozen)
        second = self.text_encoders[CLIP_G]
        if pool == "eos":
            second.model.text_model.eos_token_id = second.tokenizer.tokenizer.eos_token_id
        self._photo_sizes = sizes == "as_published"
        self._zero_when_empty = model_index(self.folder).get("force_zeros_for_empty_prompt", True)

    def _read(
        self, tokens: Tokens, vectors: TokenVectors, bypass: TokenVectors
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        outputs = self._outputs(tokens, vectors, output_hidden_states=True)
        states = {name: output.hidden_states[-2] for name, output in outputs.items()}
        keys, pooled = torch.cat(list(states.values()), dim=-1), outputs[CLIP_G].text_embeds
        if not bypass:
            return keys, None, pooled
        values = [with_bypass(states[name], tokens.positions[name], bypass[name]) for name in states]
        return keys, torch.cat(values, dim=-1), pooled

    def _encode_negative(self, prompt: str, tokens: Tokens, vectors: TokenVectors | None) -> Conditioning:
        """Encode the negative prompt; an empty one is zeros if the checkpoint says so, as in diffusers' pipeline."""
        encoded = super()._encode_negative(prompt, tokens, vectors)
        if prompt or not self._zero_when_empty:
            return encoded
        return Conditioning(torch.zeros_like(encoded.hidden), torch.zeros_like(encoded.pooled))

    def _unet_inputs(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        height, width = (side * self.factor for side in latents.shape[-2:])
        sizes = [height, width, 0, 0, height, width]  # original size, top left corner of the crop, target size
        ids = torch.tensor([sizes], dtype=conditioning.hidden.dtype, device=latents.device)
        time_ids = ids.expand(len(latents), -1)
        if self._photo_sizes and conditioning.sizes is not None:
            time_ids = conditioning.sizes.to(ids)
        return {"added_cond_kwargs": {"text_embeds": conditioning.pooled, "time_ids": time_ids}}
