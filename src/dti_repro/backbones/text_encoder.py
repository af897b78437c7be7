"""A frozen text encoder with its tokenizer and the place where learned vectors enter it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from dti_repro.backbones.checkpoint import initializer_ids, load_weights, loading
from dti_repro.backbones.injection import InjectedEmbedding
from dti_repro.backbones.tokens import PlaceholderTokenizer
from dti_repro.errors import InputError


class Part(NamedTuple):
    """A text encoder of a checkpoint: the folder of its tokenizer, its class in transformers; how many tokens it
    reads of a prompt (None: the tokenizer's own number); whether a word's token begins with the space before it;
    whether its table scales rows as it reads them."""

    tokenizer: str
    architecture: type[PreTrainedModel]
    length: int | None = None
    spaced: bool = False
    scaled: bool = False

    def load_tokenizer(self, folder: Path) -> PlaceholderTokenizer:
        """From the checkpoint's folder."""
        with loading(folder, self.tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(folder / self.tokenizer, local_files_only=True)
        return PlaceholderTokenizer(tokenizer, self.length, self.spaced)


class TextEncoder(nn.Module):
    """encoder: its folder in the checkpoint."""

    def __init__(self, folder: Path, encoder: str, part: Part, dtype: torch.dtype) -> None:
        super().__init__()
        self.tokenizer = part.load_tokenizer(folder)
        self.model = load_weights(part.architecture, folder, encoder, dtype=dtype)
        self.embedding = InjectedEmbedding(self.model.get_input_embeddings(), self.tokenizer.vocabulary, part.scaled)
        self.model.set_input_embeddings(self.embedding)

    @property
    def table(self) -> Tensor:
        """The vocabulary (words, dim), as stored."""
        return self.embedding.table.weight

    def rows(self, initializer: str) -> Tensor:
        """(tokens, dim) float32 rows of the initializer's tokens. InputError for a word that it does not know."""
        ids = initializer_ids(self.tokenizer.tokenizer, initializer)
        rows = self.table[ids].float()
        if not ids or bool((rows == 0).all(dim=-1).any()):
            raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {self.model.name_or_path}")
        return rows.clone()

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, vectors: Tensor | None = None, **options: Any
    ) -> Any:
        """The model's own output for ids (batch, length), with vectors (batch, vectors, dim) at the positions."""
        if positions is None or vectors is None:
            return self.model(ids, **options)
        with self.embedding.reading(positions, vectors):
            return self.model(ids, **options)
