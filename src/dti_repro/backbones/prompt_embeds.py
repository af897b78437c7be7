"""Encoded prompts as arguments of diffusers' pipelines: once, or anew at each timestep of the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn.functional import pad

from dti_repro.backbones.base import Conditioning, TokenVectors

Encoded = Callable[[Tensor], tuple[Conditioning, Conditioning]]
"""t (1,) -> the conditioning of the prompts, and of the negative prompt."""


def concatenate_words(words: Sequence[TokenVectors]) -> TokenVectors:
    """Return the vectors of several words, one after the other. If one word has vectors for each layer, or a bypass,
    the others get them, too: the same vectors at all layers, and a bypass of zero."""
    out = {}
    for encoder in words[0] if words else ():
        rows = [word[encoder] for word in words]
        layers, width = (max(row.shape[axis] for row in rows) for axis in (1, 3))
        rows = [pad(row, (0, width - row.shape[3])).expand(-1, layers, -1, -1) for row in rows]
        out[encoder] = torch.cat(rows, dim=2)
    return out


def embeds_by_timestep(pipeline: DiffusionPipeline, encoded: Encoded, prompts: int, steps: int) -> dict[str, Any]:
    """Return arguments for prompts that are encoded anew at each of the pipeline's timesteps, after each step for the
    next one."""
    pipeline.scheduler.set_timesteps(steps)

    def encode_next(pipeline: DiffusionPipeline, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        following = pipeline.scheduler.timesteps[step + 1 : step + 2]
        if len(following) == 0:
            return {}
        given = embeds(*encoded(following), prompts)
        changed = {"prompt_embeds": ("negative_prompt_embeds", "prompt_embeds")}
        if "add_text_embeds" in tensors:
            changed["add_text_embeds"] = ("negative_pooled_prompt_embeds", "pooled_prompt_embeds")
        guided = {key: torch.cat([given[part] for part in parts]) for key, parts in changed.items()}
        # without guidance the pipeline has no unconditional half
        return {key: rows[-len(tensors[key]) :].to(tensors[key]) for key, rows in guided.items()}

    names = [name for name in ("prompt_embeds", "add_text_embeds") if name in pipeline._callback_tensor_inputs]
    return {
        **embeds(*encoded(pipeline.scheduler.timesteps[:1]), prompts),
        "callback_on_step_end": encode_next,
        "callback_on_step_end_tensor_inputs": names,
    }


def embeds(conditional: Conditioning, unconditional: Conditioning, prompts: int) -> dict[str, Tensor]:
    """Return conditionings as arguments of a pipeline; one row is broadcast to all prompts."""
    out = {}
    for prefix, conditioning in (("", conditional), ("negative_", unconditional)):
        out[f"{prefix}prompt_embeds"] = conditioning.hidden.expand(prompts, -1, -1)
        if conditioning.pooled is not None:
            out[f"{prefix}pooled_prompt_embeds"] = conditioning.pooled.expand(prompts, -1)
        if conditioning.mask is not None:
            out[f"{prefix}prompt_attention_mask"] = conditioning.mask.expand(prompts, -1)
    return out
