"""Prompts with placeholders as token ids and positions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dti_repro.errors import InputError


class PlaceholderTokenizer:
    """A tokenizer that knows placeholders. A placeholder of n vectors becomes n tokens in a row, added to the
    tokenizer as `<x>`, `<x>_1`, ...: ids and the resulting order are those of diffusers'
    load_textual_inversion.

    length: tokens of a prompt, None for the tokenizer's own number. spaced: the tokenizer makes the space before a
    word a part of the word's token (SentencePiece); placeholders then take it as well, so that they stand where the
    word's token would.
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
        """(ids, positions), each (prompts, context), padded as the checkpoint was trained with. prefix: a text before
        every prompt; the context is longer by its tokens, of which the prompt's own start token is one, and the
        space at its end another, as SanaPipeline counts."""
        check_defined(prompts, placeholders)
        slot_of: dict[int, int] = {}
        for placeholder, count in placeholders.items():
            names = _tokens_of(placeholder, count)
            self._add(names)
            for name in names:
                slot_of[self.tokenizer.convert_tokens_to_ids(name)] = len(slot_of)
        texts = [prefix + _expanded(prompt, placeholders) for prompt in prompts]
        length = self._context(prefix)
        ids = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        positions = torch.full_like(ids, -1)
        for token, position in slot_of.items():
            positions[ids == token] = position
        for prompt, row in zip(prompts, positions.tolist(), strict=True):
            wanted = sum(prompt.count(placeholder) * count for placeholder, count in placeholders.items())
            if sum(position >= 0 for position in row) < wanted:
                raise InputError(f"prompt '{prompt}' is longer than {self.length} tokens: a placeholder is cut off")
        return ids, positions

    def lost(self, prompts: Sequence[str], placeholders: Mapping[str, int], prefix: str = "") -> dict[str, str]:
        """Prompt -> the words at its end that the context has no room for; without the prompts that fit. InputError as
        in a call."""
        self(prompts, placeholders, prefix)
        room = self._context(prefix) - self.tokenizer.num_special_tokens_to_add()
        texts = [prefix + _expanded(prompt, placeholders) for prompt in prompts]
        whole = self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        return {
            p: self.tokenizer.decode(ids[room:]).strip()
            for p, ids in zip(prompts, whole, strict=True)
            if len(ids) > room
        }

    def mask(self, ids: Tensor) -> Tensor:
        """(prompts, context): 1 up to a prompt's last token, 0 for the padding behind it."""
        return (ids != self.tokenizer.pad_token_id).long().flip(1).cummax(1).values.flip(1)

    def _context(self, prefix: str) -> int:
        return self.length + (len(self.tokenizer(prefix).input_ids) - 2 if prefix else 0)

    def _add(self, names: Sequence[str]) -> None:
        new = [name for name in names if name not in self.tokenizer.get_added_vocab()]
        # Where spaces become letters of words, only what is found before that change has them around it.
        self.tokenizer.add_tokens(
            [AddedToken(name, lstrip=True, normalized=False) if self.spaced else name for name in new]
        )


def check_defined(prompts: Sequence[str], placeholders: Mapping[str, int]) -> None:
    """InputError for a word of the form <name> that is none of the placeholders. The tokenizer would read it as plain
    text, or as a word of an earlier call."""
    for prompt in prompts:
        rest = prompt
        for placeholder in placeholders:
            rest = rest.replace(placeholder, " ")
        if unknown := dict.fromkeys(re.findall(r"<[^<>\s]+>", rest)):
            raise InputError(
                f"prompt {prompt!r}: no vectors are given for {', '.join(unknown)}; write a learned word as {{name}}, "
                "and other text without < >"
            )


def _tokens_of(placeholder: str, count: int) -> list[str]:
    return [placeholder, *(f"{placeholder}_{k}" for k in range(1, count))]


def _expanded(prompt: str, placeholders: Mapping[str, int]) -> str:
    """The prompt with all tokens of each placeholder."""
    for placeholder, count in placeholders.items():
        prompt = prompt.replace(placeholder, " ".join(_tokens_of(placeholder, count)))
    return prompt
