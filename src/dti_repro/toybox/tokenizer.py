"""The toybox's word-level CLIP tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from dti_repro.artifacts.files import write_file

CONTEXT = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Train byte-pair merges on a world's word list alone, until every word is one token.

    The end token has the highest id: open_clip pools there by argmax. Pieces that are no words are kept, so that
    any text can be tokenized; their embedding rows are zero (see :func:`word_ids`).
    """
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=list(LETTERS),
        # Named, because the trainer would number them in the order of a hash map, anew each time.
        special_tokens=[f"{letter}</w>" for letter in LETTERS + ","],
        show_progress=False,
    )
    pairs.train_from_iterator([word for word in words for _ in range(2)], trainer)
    model = json.loads(pairs.to_str())["model"]
    vocab = dict(model["vocab"])
    vocab[START] = len(vocab)
    vocab[END] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m) for m in model["merges"]], model_max_length=CONTEXT)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer in transformers' format, without the white space that is half of the library's own file."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    write_file(file, json.dumps(content, separators=(",", ":"), ensure_ascii=False))


def word_ids(tokenizer: CLIPTokenizer, words: Sequence[str]) -> list[int]:
    """Ids of the words and of the two special tokens: the rows that pretraining reaches."""
    vocab = tokenizer.get_vocab()
    return sorted([vocab[f"{word}</w>"] for word in words] + [vocab[START], vocab[END]])
