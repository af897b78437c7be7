"""SANA and SANA 1.5 (Xie et al. 2024, 2025): Gemma2 reads the prompt, a linear transformer draws in the latents of a
32x autoencoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from diffusers import AutoencoderDC, DiffusionPipeline, ModelMixin, SanaPipeline, SanaTransformer2DModel
from pydantic import PositiveFloat
from torch import Tensor
from transformers import Gemma2Model

from dti_repro.backbones.base import Conditioning, LatentDistribution, Tokens, TokenVectors
from dti_repro.backbones.diffusers_base import FrozenSettings
from dti_repro.backbones.flow_matching import ENCODER, FlowMatching
from dti_repro.backbones.text_encoder import Part

LENGTH = 300  # tokens that the transformer sees, the pipeline's max_sequence_length


class Sana(FlowMatching):
    """Conditioned on Gemma2's last hidden states of the first token and the last 299 (paper of SANA, section 3.1:
    an instruction may come before the prompt, is read by Gemma2 and hidden from the transformer), with a mask.

    instruction: `pipeline` is the complex human instruction of diffusers' SanaPipeline, in training and in
    generation; `none`; `as_published`, none in training and the pipeline's in generation, as the DTI paper's code
    has it; any other text stands in both. Prompts are made lower case, as in the pipeline. Initializers' states and
    negative prompts are read without an instruction.
    """

    SIDE: ClassVar[int] = 32
    ENCODERS: ClassVar[Mapping[str, Part]] = {
        ENCODER: Part("tokenizer", Gemma2Model, length=LENGTH, spaced=True, scaled=True)
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
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, flow_shift, **frozen)
        self.training_lead, self.generation_lead = self.leads(instruction=instruction)

    @classmethod
    def leads(cls, instruction: str = "pipeline", **settings: Any) -> tuple[str, str]:
        known = {"none": ("", ""), "pipeline": (_pipelines(),) * 2, "as_published": ("", _pipelines())}
        return known.get(instruction, (instruction,) * 2)

    @property
    def factor(self) -> int:
        return self.vae.spatial_compression_ratio

    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        hidden = self._outputs(tokens, vectors, use_cache=False)[ENCODER].last_hidden_state
        return Conditioning(_selected(hidden), mask=_selected(self._mask(tokens)))

    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        """The autoencoder has no posterior: std is zero."""
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

    def _pictures(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        """Just as large as asked for; the pipeline by itself draws the nearest size of a list, and rescales."""
        own = self._own_resolution()
        sides = {side: arguments.pop(side) or own for side in ("height", "width")}
        return pipeline(negative_prompt=None, use_resolution_binning=False, **sides, **arguments).images


def _selected(states: Tensor) -> Tensor:
    """Of the first token and the last 299: (batch, 300, ...)."""
    return torch.cat([states[:, :1], states[:, 1 - LENGTH :]], dim=1)


def _pipelines() -> str:
    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)
