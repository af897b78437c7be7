"""A checkpoint folder, looked at without loading a model: where it is, what it weighs, which words it
knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dti_repro.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGED = Path(__file__).parent.parent / "toybox" / "weights" / "pipeline"
PARTS = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")
WHOLE = 64 << 20  # bytes up to which a file is hashed whole
CHUNK = 1 << 20
CHUNKS = 32


def locate(path: str | None) -> Path:
    """The checkpoint's folder; None is the packaged toybox. InputError if there is none."""
    folder = Path(path) if path is not None else PACKAGED
    if not (folder / "model_index.json").is_file():
        raise InputError(f"backbone.path {folder} is no checkpoint in diffusers' format (it has no model_index.json)")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise InputError(f"backbone.path {folder} has no folder {part}")
    return folder


def fingerprint(folder: Path) -> str:
    """Hex digest of the files that decide what is learned, wherever they lie.

    Files above 64 MiB are hashed by their length and 32 evenly spaced chunks of 1 MiB (their header among
    them): any training changes all of a model's weights, and hashing gigabytes would cost more than a run's
    start may.
    """
    digest = hashlib.sha256()
    for part in PARTS:
        for file in sorted((folder / part).iterdir()):
            if file.suffix in (".safetensors", ".json", ".txt"):
                digest.update(f"{part}/{file.name}\0{file.stat().st_size}\0".encode())
                _update(digest, file)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as content:
        if size <= WHOLE:
            digest.update(content.read())
            return
        for k in range(CHUNKS):
            content.seek(k * (size - CHUNK) // (CHUNKS - 1))
            digest.update(content.read(CHUNK))


def check_words(folder: Path, initializer: str, placeholder: str) -> None:
    """InputError if the tokenizer does not know the initializer, or knows the placeholder as a word already.

    Unknown is what becomes the unknown token or a token whose vocabulary row is all zero: the toybox's
    tokenizer spells unknown words in letters that nothing was ever learned of.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    ids = initializer_ids(tokenizer, initializer)
    if not ids or _has_zero_row(folder, ids):
        raise InputError(f"initializer '{initializer}' is unknown to the tokenizer of {folder}: use words it knows")
    vocabulary = tokenizer.get_vocab()
    word = placeholder.lower()
    if any(form in vocabulary for form in (placeholder, word, f"{word}</w>")):
        raise InputError(f"placeholder '{placeholder}' is already a word of the tokenizer of {folder}: choose another")
    if not (placeholder.startswith("<") and placeholder.endswith(">") and len(placeholder) > 2):
        raise InputError(f"placeholder '{placeholder}' has no angle brackets: write it as <name>")


def initializer_ids(tokenizer: PreTrainedTokenizerBase, initializer: str) -> list[int]:
    """Token ids of the class word; none if one of them is the unknown token standing for something else."""
    ids = tokenizer(initializer, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return [] if unknown is not None and unknown in ids else ids


def _has_zero_row(folder: Path, ids: list[int]) -> bool:
    from safetensors import safe_open

    files = sorted((folder / "text_encoder").glob("*.safetensors"))
    if index := next(iter((folder / "text_encoder").glob("*.safetensors.index.json")), None):
        names = json.loads(index.read_text())["weight_map"]
        files = [index.parent / file for name, file in names.items() if name.endswith("token_embedding.weight")]
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                if key.endswith("token_embedding.weight"):
                    table = file.get_slice(key)
                    return any(not bool(table[i].any()) for i in ids)
    return False
