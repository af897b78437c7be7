"""What SANA and Wan share: a transformer that is trained to predict the velocity from image to noise (Lipman et al.
2023, Liu et al. 2023)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Unpack

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from pydantic import PositiveFloat
from torch import Tensor

from dti_repro.backbones.base import Conditioning, Tokens
from dti_repro.backbones.diffusers_base import DiffusersBackbone, FrozenSettings
from dti_repro.backbones.samplers import scheduler_options
from dti_repro.errors import InputError

ENCODER = "text_encoder"


class FlowMatching(DiffusersBackbone):
    """Trained on noisy = (1 - sigma) latents + sigma noise towards noise - latents, unweighted.

    t indexes the sigmas of diffusers' FlowMatchEulerDiscreteScheduler from the smallest to 1, so that a larger t is
    noisier, as in other backbones. flow_shift: s in sigma = s u / (1 + (s - 1) u), u = (t + 1) / timesteps; None is
    what that scheduler reads in the checkpoint's config: its `shift`, 1 if it has none (the `flow_shift` of other
    schedulers is theirs, in sampling only). Sampling keeps the checkpoint's own. The VAE stays in float32.
    """

    DENOISER: ClassVar[str] = "transformer"
    VAE_DTYPE: ClassVar[torch.dtype | None] = torch.float32
    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]]

    def __init__(
        self,
        name: str,
        path: str,
        resolution: int | None,
        flow_shift: PositiveFloat | None = None,
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, **frozen)
        own = self.generation_scheduler.config
        schedule = FlowMatchEulerDiscreteScheduler(
            own.num_train_timesteps, shift=own.get("shift", 1.0) if flow_shift is None else flow_shift
        )
        self.register_buffer("sigmas", schedule.sigmas.flip(0), persistent=False)
        self.register_buffer("times", schedule.timesteps.flip(0), persistent=False)

    def _mask(self, tokens: Tokens) -> Tensor:
        """1 up to each prompt's end, 0 for the padding behind it: (batch, length)."""
        return self.text_encoders[ENCODER].tokenizer.mask(tokens.ids[ENCODER]).to(self.device)

    def _reading(self, tokens: Tokens) -> dict[str, Any]:
        return {"attention_mask": self._mask(tokens)}

    @abstractmethod
    def _velocity(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """What the transformer predicts, time (batch,) being sigma x timesteps."""

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        sigma = self.sigmas[t].view(-1, *[1] * (latents.ndim - 1))
        noisy = (1 - sigma) * latents + sigma * noise
        predicted = self._velocity(noisy.to(self.denoiser.dtype), self.times[t], conditioning)
        return (predicted.float() - (noise - latents)).square().flatten(1).mean(dim=1)

    def _pipeline(self, scheduler: diffusers.SchedulerMixin) -> DiffusionPipeline:
        return self.PIPELINE_CLASS(
            tokenizer=self.text_encoders[ENCODER].tokenizer.tokenizer,
            text_encoder=self.text_encoders[ENCODER].model,
            vae=self.vae,
            transformer=self.denoiser,
            scheduler=scheduler,
        )

    @classmethod
    def _own_options(cls, own: diffusers.SchedulerMixin, chosen: type[diffusers.SchedulerMixin]) -> dict[str, Any]:
        options = scheduler_options(chosen)
        shift = own.config.get("flow_shift", own.config.get("shift", 1.0))
        if "use_flow_sigmas" in options:
            return {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
        if "shift" in options:
            return {"shift": shift}
        raise InputError(f"{chosen.__name__} cannot draw with a flow model: use sampler=default, dpmpp_2m or unipc")
