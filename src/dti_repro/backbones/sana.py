"""SANA and SANA 1.5 (Xie et al. 2024, 2025): Gemma2 as text encoder, a linear transformer, a 32x autoencoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from diffusers import AutoencoderDC, DiffusionPipeline, ModelMixin, SanaPipeline, SanaTransformer2DModel
from pydantic import PositiveFloat
from torch import Tensor
from transformers import Gemma2Model

from dti_repro.backbones.base import Conditioning, LatentDistribution, Tokens, TokenVectors
from dti_repro.backbones.flow_matching import ENCODER, FlowMatching
from dti_repro.backbones.frozen_model import FrozenSettings
from dti_repro.backbones.text_encoder import EncoderConfig
from dti_repro.errors import InputError

LENGTH = 300  # tokens that the transformer reads, the pipeline's max_sequence_length


class Sana(FlowMatching):
    """Conditioned on Gemma2's last hidden states of the first token and the last 299, with a mask (paper of SANA,
    section 3.1: an instruction may come before the prompt; Gemma2 reads it, and it is hidden from the transformer).

    instruction: `pipeline` is the complex human instruction of diffusers' SanaPipeline, in training and in
    generation; `none`; `as_published`: none in training and the pipeline's in generation, as in the DTI paper's code;
    any other text is used in both. Prompts are made lower case, as in the pipeline. Initializers' states and negative
    prompts have no instruction.

    as_published: as the DTI paper's code, which is unequal: that instruction; zero vectors before the training prompts
    of DTI, and of no other method; an autoencoder that draws in bfloat16 (and encodes photos in float32).
    """

    SIDE: ClassVar[int] = 32
    ENCODERS: ClassVar[Mapping[str, EncoderConfig]] = {
        ENCODER: EncoderConfig("tokenizer", Gemma2Model, length=LENGTH, spaced=True)
    }
    DENOISER_CLASS: ClassVar[type[ModelMixin]] = SanaTransformer2DModel
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]] = SanaPipeline
    VAE_CLASS: ClassVar[type[ModelMixin]] = AutoencoderDC

    def __init__(
        self,
        name: str,
        path: str,
        resolution: int | None,
        flow_shift: PositiveFloat | None = None,
        instruction: str = "pipeline",
        as_published: bool = False,
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        prefixes = self.prompt_prefixes(instruction, as_published)
        super().__init__(name, path, resolution, flow_shift, **frozen)
        self.training_prefix, self.generation_prefix = prefixes
        self.pads_directions = as_published
        if as_published:  # a copy: the autoencoder of training keeps all digits of its weights
            self.drawing_vae = deepcopy(self.vae).to(torch.bfloat16)

    @classmethod
    def prompt_prefixes(
        cls, instruction: str = "pipeline", as_published: bool = False, **settings: Any
    ) -> tuple[str, str]:
        if as_published:
            if instruction not in ("pipeline", "as_published"):
                raise InputError(
                    "backbone.as_published is true, which has an instruction of its own: leave out backbone.instruction"
                )
            instruction = "as_published"
        lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        pipeline = "\n".join(lines)
        prefixes = {"none": ("", ""), "pipeline": (pipeline, pipeline), "as_published": ("", pipeline)}
        return prefixes.get(instruction, (instruction, instruction))

    @property
    def factor(self) -> int:
        return self.vae.spatial_compression_ratio

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        hidden = self._outputs(tokens, vectors, use_cache=False)[ENCODER].last_hidden_state
        return Conditioning(_selected(hidden), mask=_selected(self._mask(tokens)))

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        """Encode pixels (images, 3, height, width) in [-1, 1]. The autoencoder has no posterior: std is zero."""
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent * self.vae.config.scaling_factor
        return LatentDistribution(latents, torch.zeros_like(latents))

    @staticmethod
    def _clean(text: str) -> str:
        return text.lower().strip()

    def _velocity(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return self.denoiser(
            noisy,
            encoder_hidden_states=conditioning.hidden,
            encoder_attention_mask=conditioning.mask,
            timestep=time * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]

    def _generate_pixels(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        """Generate the exact size; by default the pipeline generates the nearest size of a list, and rescales."""
        for side in ("height", "width"):
            arguments[side] = arguments[side] or self._model_resolution()
        return pipeline(negative_prompt=None, use_resolution_binning=False, **arguments).images


def _selected(states: Tensor) -> Tensor:
    """Return the states of the first token and the last 299: (batch, 300, ...)."""
    return torch.cat([states[:, :1], states[:, 1 - LENGTH :]], dim=1)
