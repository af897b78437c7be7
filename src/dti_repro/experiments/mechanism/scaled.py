"""Words at several norms: the vocabulary's at multiples of its mean, learned ones as they were learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import OWN, VOCABULARY, Row, unique

if TYPE_CHECKING:
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs, Word


def scaled_words(inputs: Inputs, encoder: str) -> Iterator[tuple[str, list[Word], Tensor]]:
    """Yield (norm, words, vectors (words, dim)): all words at their own norms, then each word of the vocabulary at each
    of `factors` times the vocabulary's mean."""
    import torch
    import torch.nn.functional as F

    words = inputs.words(encoder)
    yield OWN, words, torch.stack([word.vector for word in words])
    plain = [word for word in words if word.group == VOCABULARY]
    if plain:
        unit = F.normalize(torch.stack([word.vector for word in plain]), dim=-1)
        for factor in inputs.cfg.factors:
            yield f"x{factor:g}", plain, unit * factor * inputs.mean_norms[encoder]


def curves(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return (group, norm, label) of each line of a figure: the vocabulary's at each norm but its own, then the learned
    groups."""
    found = unique([{"curve": (row["group"], row["norm"])} for row in rows], "curve")
    plain = [(group, norm) for group, norm in found if group == VOCABULARY]
    chosen = [pair for pair in plain if pair[1] != OWN] or plain
    learned = [pair for pair in found if pair[0] != VOCABULARY]
    return [
        *((group, norm, f"words {norm}") for group, norm in chosen),
        *((group, norm, group) for group, norm in learned),
    ]
