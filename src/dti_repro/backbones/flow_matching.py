"""Flow matching (Lipman et al. 2023, Liu et al. 2023), which SANA and Wan share: a transformer that is trained to
predict the velocity from image to noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from pydantic import PositiveFloat
from torch import Tensor

from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import Conditioning, Tokens
from dti_repro.backbones.frozen_model import FrozenSettings
from dti_repro.backbones.samplers import scheduler_options
from dti_repro.errors import InputError

ENCODER = "text_encoder"
OTHER_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


class FlowMatching(Backbone):
    """Trained on noisy = (1 - sigma) latents + sigma noise towards noise - latents, unweighted.

    t indexes the sigmas of diffusers' FlowMatchEulerDiscreteScheduler from the smallest to 1, so that a larger t is
    noisier, as in other backbones. flow_shift: s in sigma = s u / (1 + (s - 1) u), u = (t + 1) / timesteps; None is
    what that scheduler reads in the checkpoint's config: its `shift`, 1 if it has none (the `flow_shift` of other
    schedulers is for sampling only). Sampling keeps the checkpoint's shift. The VAE stays in float32.
    """

    DENOISER: ClassVar[str] = "transformer"
    VAE_DTYPE: ClassVar[torch.dtype | None] = torch.float32

    def __init__(
        self,
        name: str,
        path: str,
        resolution: int | None,
        flow_shift: PositiveFloat | None = None,
        **frozen: Unpack[FrozenSettings],
    ) -> None:
        super().__init__(name, path, resolution, **frozen)
        config = self.generation_scheduler.config
        shift = config.get("shift", 1.0) if flow_shift is None else flow_shift
        schedule = FlowMatchEulerDiscreteScheduler(config.num_train_timesteps, shift=shift)
        self.register_buffer("sigmas", schedule.sigmas.flip(0), persistent=False)
        self.register_buffer("times", schedule.timesteps.flip(0), persistent=False)

    def _mask(self, tokens: Tokens) -> Tensor:
        """Return (batch, length): 1 up to each prompt's end, 0 for the padding after it."""
        return self.text_encoders[ENCODER].tokenizer.mask(tokens.ids[ENCODER]).to(self.device)

    def _encoder_options(self, tokens: Tokens) -> dict[str, Any]:
        return {"attention_mask": self._mask(tokens)}

    @abstractmethod
    def _velocity(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the transformer's prediction; time (batch,) is sigma x timesteps."""

    def _predict(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        sigma = self.sigmas[t].view(-1, *[1] * (latents.ndim - 1))
        noisy = (1 - sigma) * latents + sigma * noise
        velocity = self._velocity(noisy.to(self.denoiser.dtype), self.times[t], conditioning)
        return velocity.contiguous(), noise - latents  # the loss is added up in the order of the memory

    @classmethod
    def _sampler_options(
        cls, scheduler: SchedulerMixin, sampler: type[SchedulerMixin], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        other, name = [key for key in OTHER_SIGMAS if given.get(key)], sampler.__name__
        if other and name.startswith("DPMSolver"):  # which then computes with noise levels above 1
            raise InputError(f"{name} does not fit a flow model with sampler.options.{other[0]}: leave it out")
        options = scheduler_options(sampler)
        shift = scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0))
        if "use_flow_sigmas" in options:
            return {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
        if "shift" in options:
            return {"shift": shift}
        raise InputError(f"{name} does not fit a flow model: use sampler=default, dpmpp_2m or unipc")
