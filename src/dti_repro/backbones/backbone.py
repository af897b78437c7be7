"""What a frozen model draws: the library's own pipeline around it, given its prompts as this project encodes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from dti_repro.backbones.base import Conditioning, LearnedWord, Tokens, TokenVectors
from dti_repro.backbones.frozen_model import FrozenModel
from dti_repro.backbones.samplers import check_steps, checkpoint_scheduler, make_sampler, scheduler_class
from dti_repro.errors import InputError

Encoded = Callable[[Tensor], tuple[Conditioning, Conditioning]]
"""t (1,) -> the conditioning of the prompts, and of the negative prompt."""


class Backbone(FrozenModel):
    """A frozen model that trains words and draws with them. Subclasses say how prompts become conditioning, what the
    loss is, and which of diffusers' pipelines draws."""

    PIPELINE_CLASS: ClassVar[type[DiffusionPipeline]]
    PIPELINE_OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Arguments of the pipeline's constructor besides the models."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        words: Mapping[str, LearnedWord | Mapping[str, Tensor]],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
        sampler: str = "default",
        sampler_options: Mapping[str, Any] = MappingProxyType({}),
        height: int | None = None,
        width: int | None = None,
    ) -> list[Image.Image]:
        """Generate one image per prompt and seed, independent of the rest of the batch.

        prompts and negative_prompt may have placeholders. words: placeholder -> its word, or its vectors
        {text encoder: (vectors, dim)} where they are the same at every layer and timestep.
        sampler: `default` (the checkpoint's) or the name of a diffusers scheduler class. sampler_options: keys of its
        config. InputError for an image with numbers that are not finite.
        """
        learned = {placeholder: LearnedWord.of(word) for placeholder, word in words.items()}
        counts = {placeholder: word.count for placeholder, word in learned.items()}
        distinct = list(dict.fromkeys(prompts))  # several seeds of a prompt share its encoding
        index = [distinct.index(prompt) for prompt in prompts]
        tokens = self.tokenize(distinct, counts, self.generation_prefix)
        negative = self.tokenize([negative_prompt], counts, "")
        # without a learned word it is the same at every timestep
        fixed = None if negative.have_vectors else self._encode_negative(negative_prompt, negative, None)

        def encoded(t: Tensor) -> tuple[Conditioning, Conditioning]:
            vectors = _concatenate_words([word.at(t) for word in learned.values()])
            vectors = {name: rows.to(self.device, torch.float32) for name, rows in vectors.items()}
            conditional = self.encode_text(tokens, vectors)[index]
            unconditional = self._encode_negative(negative_prompt, negative, vectors) if fixed is None else fixed
            return conditional, unconditional.lengthened(conditional.hidden.shape[1])

        pipeline = self._pipeline(self._sampler(self.generation_scheduler, sampler, sampler_options))
        pipeline.set_progress_bar_config(disable=True)
        if any("timestep" in word.depends_on for word in learned.values()):
            given = _embeds_by_timestep(pipeline, encoded, len(prompts), steps)
        else:
            given = _embeds(*encoded(torch.zeros(1)), len(prompts))
        pixels = self._generate_pixels(
            pipeline,
            **given,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=height,
            width=width,
            output_type="np",
        )
        for prompt, seed, image in zip(prompts, seeds, pixels, strict=True):
            if not np.isfinite(image).all():
                raise InputError(
                    f"prompt {prompt!r}, seed {seed}: the image holds numbers that are not finite, and is not saved; "
                    "try another sampler, a smaller guidance or backbone.dtype=float32"
                )
        return DiffusionPipeline.numpy_to_pil(pixels)

    def _pipeline(self, sampler: SchedulerMixin) -> DiffusionPipeline:
        """Return diffusers' pipeline around the models."""
        models = {self.DENOISER: self.denoiser, "vae": self.drawing_vae, "scheduler": sampler}
        for name, encoder in self.text_encoders.items():
            models |= {name: encoder.model, self.ENCODERS[name].tokenizer: encoder.tokenizer.tokenizer}
        return self.PIPELINE_CLASS(**models, **self.PIPELINE_OPTIONS)

    @classmethod
    def _sampler(cls, scheduler: SchedulerMixin, name: str, options: Mapping[str, Any]) -> SchedulerMixin:
        """Return the sampler of this name. scheduler: the checkpoint's. InputError for options that it does not
        take."""
        sampler = type(scheduler) if name == "default" else scheduler_class(name)
        return make_sampler(scheduler, sampler, {**cls._sampler_options(scheduler, sampler, options), **options})

    @classmethod
    def check_generation(
        cls,
        folder: Path,
        *,
        steps: int,
        sampler: str,
        sampler_options: Mapping[str, Any],
        height: int | None,
        width: int | None,
    ) -> None:
        """Raise InputError for settings that `generate` cannot use with the checkpoint in this folder. Read no
        weights."""
        for key, side in (("height", height), ("width", width)):
            if side is not None and side % cls.SIDE:
                raise InputError(f"{key}={side}: this backbone needs a multiple of {cls.SIDE} pixels")
        check_steps(cls._sampler(checkpoint_scheduler(folder), sampler, sampler_options), steps)

    def _generate_pixels(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        """Call the pipeline: (images, height, width, 3) in [0, 1]."""
        return pipeline(**arguments).images

    def _encode_negative(self, prompt: str, tokens: Tokens, vectors: TokenVectors | None) -> Conditioning:
        return self.encode_text(tokens, vectors)

    @classmethod
    def _sampler_options(
        cls, scheduler: SchedulerMixin, sampler: type[SchedulerMixin], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return options of the sampler that the config of the checkpoint's scheduler does not give. InputError for a
        sampler that does not fit the model with the given options."""
        if not hasattr(sampler, "scale_model_input"):
            raise InputError(f"{sampler.__name__} is for flow models, and this is none: use sampler=ddim or dpmpp_2m")
        return {}


def _concatenate_words(words: Sequence[TokenVectors]) -> TokenVectors:
    """Return the vectors of several words, one after the other. If one word has vectors for each layer, or a bypass,
    the others get them, too: the same vectors at all layers, and a bypass of zero."""
    out = {}
    for encoder in words[0] if words else ():
        rows = [word[encoder] for word in words]
        layers, width = (max(row.shape[axis] for row in rows) for axis in (1, 3))
        rows = [pad(row, (0, width - row.shape[3])).expand(-1, layers, -1, -1) for row in rows]
        out[encoder] = torch.cat(rows, dim=2)
    return out


def _embeds_by_timestep(pipeline: DiffusionPipeline, encoded: Encoded, prompts: int, steps: int) -> dict[str, Any]:
    """Return arguments for prompts that are encoded anew at each of the pipeline's timesteps, after each step for the
    next one."""
    pipeline.scheduler.set_timesteps(steps)
    arguments = {"prompt_embeds": "prompt_embeds", "add_text_embeds": "pooled_prompt_embeds"}

    def encode_next(pipeline: DiffusionPipeline, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        following = pipeline.scheduler.timesteps[step + 1 : step + 2]
        if len(following) == 0:
            return {}
        given = _embeds(*encoded(following), prompts)
        for key, rows in tensors.items():  # without guidance the pipeline has no unconditional half
            guided = torch.cat([given[f"negative_{arguments[key]}"], given[arguments[key]]])
            tensors[key] = guided[-len(rows) :].to(rows)
        return tensors

    return {
        **_embeds(*encoded(pipeline.scheduler.timesteps[:1]), prompts),
        "callback_on_step_end": encode_next,
        "callback_on_step_end_tensor_inputs": [name for name in arguments if name in pipeline._callback_tensor_inputs],
    }


def _embeds(conditional: Conditioning, unconditional: Conditioning, prompts: int) -> dict[str, Tensor]:
    """Return conditionings as arguments of a pipeline; one row is broadcast to all prompts."""
    out = {}
    for prefix, conditioning in (("", conditional), ("negative_", unconditional)):
        out[f"{prefix}prompt_embeds"] = conditioning.hidden.expand(prompts, -1, -1)
        if conditioning.pooled is not None:
            out[f"{prefix}pooled_prompt_embeds"] = conditioning.pooled.expand(prompts, -1)
        if conditioning.mask is not None:
            out[f"{prefix}prompt_attention_mask"] = conditioning.mask.expand(prompts, -1)
    return out
