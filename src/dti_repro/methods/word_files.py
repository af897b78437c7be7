"""Save learned words as vectors, or as a method's state with the configuration that reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dti_repro.artifacts.embedding import (
    METHOD,
    for_encoders,
    load_embeddings,
    load_state,
    save_embeddings,
    save_state,
)
from dti_repro.artifacts.run_dir import read_header
from dti_repro.backbones.base import BackboneSpec, LearnedWord, TokenVectors
from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.methods.base import TokenMethod


def save_word(
    path: Path,
    placeholder: str,
    method: TokenMethod,
    concept: int,
    config: Mapping[str, Any],
    header: Mapping[str, str],
) -> None:
    """Write what is learned of a concept. config: the node that the method was built from."""
    if not method.depends_on:
        # Without dependence all leading entries are equal, and a file has one list.
        vectors = {name: rows.reshape(-1, *rows.shape[-2:])[0] for name, rows in method.vectors(concept).items()}
        save_embeddings(path, placeholder, vectors, header)
        return
    vectors = method.initializers[concept].positions
    more = {METHOD: json.dumps(config, sort_keys=True), "vectors": str(vectors)}
    save_state(path, placeholder, method.state(concept), {**header, **more})


def load_word(path: Path, spec: BackboneSpec) -> LearnedWord:
    """Return the word whose embedding or state lies at `path`. InputError that names the file if it is not one, or not
    of this backbone, or if its method is not one that may be built."""
    if METHOD not in read_header(path):
        return LearnedWord.of(for_encoders(load_embeddings(path), spec, path))
    tensors, config, vectors = load_state(path)
    try:
        method = build(config, TokenMethod, "method")
        method.load(tensors, vectors, spec)
    except InputError as error:
        raise InputError(f"embedding {path}: {error}") from error
    return learned_word(method, 0)


def learned_word(method: TokenMethod, concept: int) -> LearnedWord:
    """Return a concept of a method as generation reads it."""

    def at(t: Tensor) -> TokenVectors:
        with torch.no_grad():
            return method(torch.tensor([concept]), t.to(next(method.parameters()).device))

    return LearnedWord(method.initializers[concept].positions, at, method.depends_on)


def count_vectors(path: Path) -> int:
    """Return how many vectors the word at `path` has. InputError as load_word, as far as no backbone is needed."""
    if METHOD in read_header(path):
        return load_state(path)[2]
    return len(next(iter(load_embeddings(path).values())))
