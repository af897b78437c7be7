"""Cross-attention layers that read conditionings of their own, and whose attention maps can be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor


class LayerAttention(AttnProcessor2_0):
    """diffusers' attention processor, for one of a UNet's cross-attention layers.

    A conditioning of `length` tokens is for all layers, and is read as diffusers reads it. In one of layers x length
    tokens, each layer reads its own part. In one of twice as many, the first half is for the keys and the second for
    the values.
    """

    def __init__(self, layer: int, layers: int, length: int) -> None:
        super().__init__()
        self.layer = layer
        self.layers = layers
        self.length = length
        self.maps: list[Tensor] | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        keys, values = self._parts(encoder_hidden_states)
        if keys is values and self.maps is None:
            return super().__call__(attn, hidden_states, keys, attention_mask, temb, **arguments)
        query, key, value = (
            attn.head_to_batch_dim(project(states))
            for project, states in ((attn.to_q, hidden_states), (attn.to_k, keys), (attn.to_v, values))
        )
        shares = attn.get_attention_scores(query, key)
        if self.maps is not None:
            self.maps.append(shares.unflatten(0, (-1, attn.heads)))
        out = attn.batch_to_head_dim(shares @ value)
        for module in attn.to_out:
            out = module(out)
        return out

    def _parts(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return what this layer makes keys and values of, each (batch, length, dim)."""
        parts = states.shape[1] // self.length
        if parts not in (self.layers, 2 * self.layers) or parts == 1:
            return states, states
        mine = states.unflatten(1, (-1, self.layers, self.length))[:, :, self.layer]
        keys = mine[:, 0]
        return (keys, keys) if parts == self.layers else (keys, mine[:, 1])


def set_layer_processors(unet: UNet2DConditionModel, length: int) -> list[LayerAttention]:
    """Give each cross-attention layer of the UNet its processor; return the processors.

    A layer is one of diffusers' Transformer2DModels, in the order down, middle, up: 16 in Stable Diffusion 1.x as in P+
    (Voynov et al. 2023), 11 in Stable Diffusion XL, where one has up to ten blocks, which share its conditioning.
    length: tokens of a prompt.
    """
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    layers = [layer for block in blocks for layer in getattr(block, "attentions", ())]
    processors = []
    for number, layer in enumerate(layers):
        for block in layer.transformer_blocks:
            processors.append(LayerAttention(number, len(layers), length))
            block.attn2.set_processor(processors[-1])
    return processors


@contextmanager
def recording(processors: Sequence[LayerAttention]) -> Iterator[list[Tensor]]:
    """Record the attention maps (batch, heads, queries, length) of these processors while the context is open."""
    maps: list[Tensor] = []
    try:
        for processor in processors:
            processor.maps = maps
        yield maps
    finally:
        for processor in processors:
            processor.maps = None
