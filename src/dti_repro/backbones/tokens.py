"""Prompts with placeholders as token ids and slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dti_repro.errors import InputError


class PlaceholderTokenizer:
    """A tokenizer that knows placeholders. A placeholder of n vectors becomes n tokens in a row, added to the
    tokenizer as `<x>`, `<x>_1`, ...: ids and the resulting order are those of diffusers'
    load_textual_inversion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = len(tokenizer)

    def __call__(self, prompts: Sequence[str], placeholders: Mapping[str, int]) -> tuple[Tensor, Tensor]:
        """(ids, slots), each (prompts, context), padded as the checkpoint was trained with."""
        slot_of: dict[int, int] = {}
        texts = list(prompts)
        for placeholder, count in placeholders.items():
            names = [placeholder, *(f"{placeholder}_{k}" for k in range(1, count))]
            self.tokenizer.add_tokens([name for name in names if name not in self.tokenizer.get_added_vocab()])
            for name in names:
                slot_of[self.tokenizer.convert_tokens_to_ids(name)] = len(slot_of)
            texts = [text.replace(placeholder, " ".join(names)) for text in texts]
        ids = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        slots = torch.full_like(ids, -1)
        for token, slot in slot_of.items():
            slots[ids == token] = slot
        stray = (ids >= self.vocabulary) & (slots < 0)
        if bool(stray.any()):
            word = self.tokenizer.convert_ids_to_tokens(ids[stray][0].item())
            raise InputError(f"prompts hold the placeholder '{word}', but no vectors are given for it")
        for prompt, row in zip(prompts, slots.tolist(), strict=True):
            wanted = sum(prompt.count(placeholder) * count for placeholder, count in placeholders.items())
            if sum(slot >= 0 for slot in row) < wanted:
                length = self.tokenizer.model_max_length
                raise InputError(f"prompt '{prompt}' is longer than {length} tokens: a placeholder is cut off")
        return ids, slots
