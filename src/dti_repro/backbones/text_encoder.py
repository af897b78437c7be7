"""A frozen text encoder, its tokenizer with placeholders, and the one place where learned vectors enter it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dti_repro.backbones.base import ZERO
from dti_repro.backbones.checkpoint import initializer_ids, load_tokenizer, load_weights
from dti_repro.errors import InputError


class PlaceholderTokenizer:
    """A tokenizer with placeholders. A placeholder of n vectors becomes n tokens in a row, which are added to the
    tokenizer as `<x>`, `<x>_1`, ..., as diffusers' load_textual_inversion does.

    length: tokens of a prompt, None for the tokenizer's number. spaced: the tokenizer makes the space before a word a
    part of the word's token (SentencePiece). A placeholder then includes this space, too, so that it is at the position
    where a word's token is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int | None = None, spaced: bool = False) -> None:
        tokenizer.padding_side = "right"
        self.tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self.length = length or tokenizer.model_max_length
        self.spaced = spaced

    def __call__(
        self, prompts: Sequence[str], placeholders: Mapping[str, int], prefix: str = ""
    ) -> tuple[Tensor, Tensor]:
        """Return (ids, positions), each (prompts, context), padded as the checkpoint was trained.

        prefix: a text before every prompt. InputError for a prompt that loses a placeholder, or has a word <name> that
        is none of the placeholders.
        """
        _check_defined(prompts, placeholders)
        names = [name for placeholder, count in placeholders.items() for name in _token_names(placeholder, count)]
        new = [name for name in names if name not in self.tokenizer.get_added_vocab()]
        # SentencePiece turns spaces into letters of words; only what is found before that has spaces around it.
        self.tokenizer.add_tokens(
            [AddedToken(name, lstrip=True, normalized=False) if self.spaced else name for name in new]
        )
        texts = [prefix + _expanded(prompt, placeholders) for prompt in prompts]
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self._context(prefix), truncation=True, return_tensors="pt"
        ).input_ids
        positions = torch.full_like(ids, -1)
        for position, name in enumerate(names):
            positions[ids == self.tokenizer.convert_tokens_to_ids(name)] = position
        # The ids of placeholders grow in the order of their first use, and CLIP pools at the largest id of a prompt.
        ids = torch.where(positions >= 0, self.vocabulary + positions, ids)
        for prompt, found in zip(prompts, (positions >= 0).sum(dim=1).tolist(), strict=True):
            if found < sum(prompt.count(placeholder) * count for placeholder, count in placeholders.items()):
                raise InputError(f"prompt '{prompt}' is longer than {self.length} tokens: a placeholder is cut off")
        return ids, positions

    def truncated(self, prompts: Sequence[str], placeholders: Mapping[str, int], prefix: str = "") -> dict[str, str]:
        """Return prompt -> the words at its end that the context has no room for, without the prompts that fit.
        InputError as in a call."""
        self(prompts, placeholders, prefix)
        room = self._context(prefix) - self.tokenizer.num_special_tokens_to_add()
        texts = [prefix + _expanded(prompt, placeholders) for prompt in prompts]
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        cut = {prompt: row[room:] for prompt, row in zip(prompts, ids, strict=True) if len(row) > room}
        return {prompt: self.tokenizer.decode(row).strip() for prompt, row in cut.items()}

    def mask(self, ids: Tensor) -> Tensor:
        """Return (prompts, context): 1 up to a prompt's last token, 0 for the padding after it."""
        return (ids != self.tokenizer.pad_token_id).long().flip(1).cummax(1).values.flip(1)

    def _context(self, prefix: str) -> int:
        """Return the tokens of a prompt with its prefix. As in SanaPipeline, two tokens of the prefix do not count: its
        start token, which is the prompt's, and the space at its end."""
        return self.length + (len(self.tokenizer(prefix).input_ids) - 2 if prefix else 0)


def _check_defined(prompts: Sequence[str], placeholders: Mapping[str, int]) -> None:
    """Raise InputError for a word <name> that is none of the placeholders. The tokenizer would read it as plain text,
    or as a placeholder of an earlier call."""
    for prompt in prompts:
        words = dict.fromkeys(re.findall(r"<[^<>\s]+>", prompt))
        if unknown := [word for word in words if word not in placeholders]:
            raise InputError(
                f"prompt {prompt!r}: no vectors are given for {', '.join(unknown)}; write a learned word as {{name}}, "
                "and other text without < >"
            )


def _token_names(placeholder: str, count: int) -> list[str]:
    return [placeholder, *(f"{placeholder}_{k}" for k in range(1, count))]


def _expanded(prompt: str, placeholders: Mapping[str, int]) -> str:
    """Return the prompt with all tokens of each placeholder."""
    for placeholder, count in placeholders.items():
        prompt = prompt.replace(placeholder, " ".join(_token_names(placeholder, count)))
    return prompt


class InjectedEmbedding(nn.Module):
    """An embedding module around the frozen table, which reads learned vectors at the positions of placeholders.

    The vocabulary is never resized and never a parameter, so no weight decay can reach it. A table may multiply its
    rows by its `embed_scale` when they are read (Gemma2: by the root of their width); vectors are multiplied, too.
    """

    def __init__(self, table: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.table = table
        self.vocabulary = vocabulary
        self._learned: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def reading(self, positions: Tensor, vectors: Tensor) -> Iterator[None]:
        """While this context is open, the embedding is vectors[b, s] where positions[b, p] = s >= 0, and zero where it
        is ZERO; positions (batch, length), vectors (batch, vectors, dim)."""
        self._learned = positions, vectors
        try:
            yield
        finally:
            self._learned = None

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids (batch, length) -> (batch, length, dim). Ids of placeholders are beyond the vocabulary; the table's
        rows for them are never used."""
        embedded = self.table(ids.clamp(max=self.vocabulary - 1))
        if self._learned is None:
            return embedded
        positions, vectors = self._learned
        learned = _at_positions(vectors.to(embedded.dtype), positions)
        if hasattr(self.table, "embed_scale"):
            learned = learned * self.table.embed_scale.to(embedded.dtype)
        embedded = torch.where(positions[..., None] >= 0, learned, embedded)
        return embedded.masked_fill(positions[..., None] == ZERO, 0)


def _at_positions(vectors: Tensor, positions: Tensor) -> Tensor:
    """Return vectors[b, positions[b, p]]: (batch, length, dim). Where there is no position, the first vector."""
    return vectors.gather(1, positions.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[-1]))


def with_bypass(states: Tensor, positions: Tensor, bypass: Tensor) -> Tensor:
    """Return states (batch, length, dim), where each state at a learned vector's position has grown by the vector's
    bypass (batch or 1, 1, vectors, dim) times the state's norm (Alaluf et al. 2023, equation 4 and their code)."""
    positions = positions.to(states.device)
    added = _at_positions(bypass[:, 0].to(states.dtype).expand(len(states), -1, -1), positions)
    grown = states + states.norm(dim=-1, keepdim=True) * added
    return torch.where(positions[..., None] >= 0, grown, states)


class EncoderConfig(NamedTuple):
    """How a text encoder of a checkpoint is loaded."""

    tokenizer: str  # folder of its tokenizer
    architecture: type[PreTrainedModel]
    length: int | None = None  # tokens of a prompt, None for the tokenizer's number
    spaced: bool = False  # as in PlaceholderTokenizer

    def load_tokenizer(self, folder: Path) -> PlaceholderTokenizer:
        """Load the tokenizer of the checkpoint in this folder."""
        return PlaceholderTokenizer(load_tokenizer(folder, self.tokenizer), self.length, self.spaced)


class TextEncoder(nn.Module):
    """A frozen text encoder. name: its folder in the checkpoint."""

    def __init__(self, folder: Path, name: str, config: EncoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.tokenizer = config.load_tokenizer(folder)
        self.model = load_weights(config.architecture, folder, name, dtype=dtype)
        self.embedding = InjectedEmbedding(self.model.get_input_embeddings(), self.tokenizer.vocabulary)
        self.model.set_input_embeddings(self.embedding)

    @property
    def table(self) -> Tensor:
        """The vocabulary (words, dim), as stored."""
        return self.embedding.table.weight

    def rows(self, initializer: str) -> Tensor:
        """Return the rows (tokens, dim) of the initializer's tokens in float32. InputError for an unknown word."""
        ids = initializer_ids(self.tokenizer.tokenizer, initializer)
        rows = self.table[ids].float()
        if not ids or bool((rows == 0).all(dim=-1).any()):
            raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {self.model.name_or_path}")
        return rows

    def forward(self, ids: Tensor, positions: Tensor, vectors: Tensor | None, **options: Any) -> Any:
        """Return the model's output for ids (batch, length), with vectors (batch or 1, vectors, dim) at the
        positions."""
        if vectors is None:
            return self.model(ids, **options)
        with self.embedding.reading(positions, vectors.expand(len(ids), -1, -1)):
            return self.model(ids, **options)
