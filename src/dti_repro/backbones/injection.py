"""The one place where learned vectors enter a text encoder: an embedding module around the frozen table.

The vocabulary is never resized and never a parameter, so no weight decay can reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class InjectedEmbedding(nn.Module):
    """Reads the table, and the learned vectors where a prompt has positions.

    scaled: the table multiplies its rows by its `embed_scale` when they are read (Gemma2: by the root of their
    width); vectors are then, too.
    """

    def __init__(self, table: nn.Module, vocabulary: int, scaled: bool = False) -> None:
        super().__init__()
        self.table = table
        self.vocabulary = vocabulary
        self.scaled = scaled
        self._positions: Tensor | None = None
        self._vectors: Tensor | None = None

    @contextmanager
    def reading(self, positions: Tensor, vectors: Tensor) -> Iterator[None]:
        """While this is open: at positions[b, p] = s >= 0 the embedding is vectors[b, s]; positions (batch, length),
        vectors (batch, vectors, dim)."""
        self._positions, self._vectors = positions, vectors
        try:
            yield
        finally:
            self._positions = self._vectors = None

    def forward(self, ids: Tensor) -> Tensor:
        """ids (batch, length) -> (batch, length, dim). Ids of placeholders lie beyond the vocabulary; what
        the table says there is never read."""
        embedded = self.table(ids.clamp(max=self.vocabulary - 1))
        if self._positions is None or self._vectors is None:
            return embedded
        position = self._positions.clamp(min=0)[..., None].expand(-1, -1, embedded.shape[-1])
        learned = self._vectors.to(embedded.dtype).gather(1, position)
        if self.scaled:
            learned = learned * self.table.embed_scale.to(embedded.dtype)
        return torch.where(self._positions[..., None] >= 0, learned, embedded)
