"""Attention with a gradient in bfloat16 on a CPU, where torch's fused kernel is slow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

LONGEST = 768
"""Keys. Measured with torch 2.14 on one core with AMX, forward and backward: the products of matrices take .2 to .9 of
the fused kernel's time for up to 576 keys, and 1.3 times as long for 1,024 queries and keys."""


@contextmanager
def product_attention() -> Iterator[None]:
    """Compute attention as two matrix products and a softmax while the context is open, where that is faster than
    torch's fused kernel: for bfloat16 on a CPU, where a gradient is asked for and the keys are few.

    The fused kernel's backward pass takes up to 24 times as long there as its forward pass. What it computes is the
    same but for rounding: here the scores are rounded to bfloat16 before the softmax, as they are not in the kernel.
    The function of torch.nn.functional is replaced for the whole process. A TorchFunctionMode would not do: it is off
    during the backward pass, in which gradient checkpointing computes the forward pass again.
    """
    fused = functional.scaled_dot_product_attention

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        is_slow = query.dtype == torch.bfloat16 and query.device.type == "cpu" and torch.is_grad_enabled()
        is_slow = is_slow and any(tensor.requires_grad for tensor in (query, key, value)) and key.shape[-2] <= LONGEST
        if not is_slow or dropout_p or enable_gqa:
            options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
            return fused(query, key, value, attn_mask, **options)
        scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-1, -2)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return scores.softmax(dim=-1) @ value

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused
