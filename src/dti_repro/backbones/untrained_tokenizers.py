"""Tokenizers of the backbones' kinds for untrained checkpoints, made on the spot: nothing is downloaded."""

from __future__ import annotations

import inspect
import json

from diffusers import SanaPipeline
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, GemmaTokenizer, T5Tokenizer

SENTENCE = "a photo of the cat car dog mug red on grass beach in snow left next to wearing hat rendition one my"
WORDS = tuple(SENTENCE.split())
LEARNED = 2000  # pieces of the Gemma tokenizer that are learned from the words and from SANA's instruction


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """Return CLIP's tokenizer, made of the list that open_clip ships."""
    theirs = SimpleTokenizer()
    vocab = {word: i for i, word in enumerate([*list(theirs.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=list(theirs.bpe_ranks), pad_token=pad_token, model_max_length=77)


def gemma_tokenizer(size: int = 0) -> GemmaTokenizer:
    """Return byte-pair encoding of words that hold the space before them, with bytes for the rest, and <bos>. size: of
    the vocabulary, which pieces of no text fill up."""
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    learner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=LEARNED, special_tokens=special, show_progress=False)
    learner.train_from_iterator([*[f" {word}" for word in WORDS], *instruction], trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = {**learned["vocab"], **{f"<unused{i}>": i for i in range(len(learned["vocab"]), size)}}
    return GemmaTokenizer(vocab=vocab, merges=[tuple(pair) for pair in learned["merges"]], add_bos_token=True)


def t5_tokenizer(size: int = 0) -> T5Tokenizer:
    """Return unigrams: the words, with the space before them, and letters for the rest. size: as in
    `gemma_tokenizer`."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [(f"▁{word}", -3.0) for word in WORDS]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz,."]
    known = [*special, *words, *letters]
    return T5Tokenizer(vocab=[*known, *((f"<unused{i}>", -99.0) for i in range(len(known), size))], extra_ids=0)
