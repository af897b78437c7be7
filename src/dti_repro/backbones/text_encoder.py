"""A frozen text encoder with its tokenizer and the place where learned vectors enter it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from dti_repro.backbones.checkpoint import initializer_ids
from dti_repro.backbones.injection import InjectedEmbedding
from dti_repro.backbones.parts import load_part
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


class TextEncoder(nn.Module):
    """encoder: its folder in the checkpoint."""

    def __init__(self, folder: Path, encoder: str, part: Part, dtype: torch.dtype) -> None:
        super().__init__()
        tokenizer = AutoTokenizer.from_pretrained(folder / part.tokenizer, local_files_only=True)
        self.tokenizer = PlaceholderTokenizer(tokenizer, part.length, part.spaced)
        self.model = load_part(part.architecture, folder / encoder, dtype)
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
        if not ids or not bool(rows.any(dim=-1).all()):
            raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {self.model.name_or_path}")
        return rows.clone()

    def forward(self, ids: Tensor, slots: Tensor | None = None, vectors: Tensor | None = None, **options: Any) -> Any:
        """The model's own output for ids (batch, length), with vectors (batch, vectors, dim) at the slots."""
        if slots is None or vectors is None:
            return self.model(ids, **options)
        with self.embedding.reading(slots, vectors):
            return self.model(ids, **options)
