"""Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders, a pooled text vector, size and crop
conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Unpack

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dti_repro.backbones.base import Conditioning, Tokens, TokenVectors
from dti_repro.backbones.checkpoint import model_index
from dti_repro.backbones.diffusers_base import FrozenSettings
from dti_repro.backbones.latent_diffusion import LatentDiffusion
from dti_repro.backbones.text_encoder import Part

CLIP_L, CLIP_G = "text_encoder", "text_encoder_2"


class StableDiffusionXL(LatentDiffusion):
    """Conditioned on both encoders' penultimate hidden states, the second one's pooled vector, and sizes.

    pool: where the pooled vector is read. `as_diffusers` leaves it to transformers: with the eos_token_id 2 of
    published configs that is the highest token id, so the placeholder if there is one, and words after it do
    not reach the pooled vector; exported files meet the same. `eos`: at the first end token, always.

    Sizes: photos are cropped squares and count as pictures of just that size, uncropped (the pipeline's own
    default in generation).
    """

    ENCODERS: ClassVar[Mapping[str, Part]] = {
        CLIP_L: Part("tokenizer", CLIPTextModel),
        CLIP_G: Part("tokenizer_2", CLIPTextModelWithProjection),
    }

    def __init__(
        self,
        name: str,
        path: str,
        resolution: int | None,
        pool: Literal["as_diffusers", "eos"] = "as_diffusers",
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, **frozen)
        second = self.text_encoders[CLIP_G]
        if pool == "eos":
            second.model.text_model.eos_token_id = second.tokenizer.tokenizer.eos_token_id
        self._zero_when_empty = model_index(self.folder).get("force_zeros_for_empty_prompt", True)

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        outputs = self._outputs(tokens, vectors, output_hidden_states=True)
        hidden = torch.cat([output.hidden_states[-2] for output in outputs.values()], dim=-1)
        return Conditioning(hidden, outputs[CLIP_G].text_embeds)

    def _unconditional(
        self, negative_prompt: str, placeholders: Mapping[str, int], vectors: TokenVectors | None
    ) -> Conditioning:
        """No negative prompt is zeros where the checkpoint says so, as in diffusers' pipeline."""
        encoded = super()._unconditional(negative_prompt, placeholders, vectors)
        if negative_prompt or not self._zero_when_empty:
            return encoded
        return Conditioning(torch.zeros_like(encoded.hidden), torch.zeros_like(encoded.pooled))

    def _extra(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        height, width = (side * self.factor for side in latents.shape[-2:])
        sizes = [height, width, 0, 0, height, width]  # original size, top left corner of the crop, target size
        ids = torch.tensor([sizes], dtype=conditioning.hidden.dtype, device=latents.device)
        time_ids = ids.expand(len(latents), -1)
        return {"added_cond_kwargs": {"text_embeds": conditioning.pooled, "time_ids": time_ids}}

    def _pipeline(self, scheduler: diffusers.SchedulerMixin) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoders[CLIP_L].model,
            text_encoder_2=self.text_encoders[CLIP_G].model,
            tokenizer=self.text_encoders[CLIP_L].tokenizer.tokenizer,
            tokenizer_2=self.text_encoders[CLIP_G].tokenizer.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            add_watermarker=False,
        )
