"""Words at several norms: the vocabulary's at multiples of its mean, learned ones as they were learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import OWN, VOCABULARY
from dti_repro.experiments.style import layer_ticks, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame
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


def plot_by_layer(axes: Axes, table: DataFrame, column: str) -> None:
    """Plot a column by layer, mean over words: the vocabulary's at each norm but its own, then the learned groups."""
    plain, learned = table[table["group"] == VOCABULARY], table[table["group"] != VOCABULARY]
    rescaled = plain[plain["norm"] != OWN]
    shown = plain if rescaled.empty else rescaled
    lines = [(f"words {norm}", rows) for norm, rows in shown.groupby("norm", sort=False)]
    lines += learned.groupby("group", sort=False)
    for k, (label, rows) in enumerate(lines):
        means = rows.groupby("layer")[column].mean()
        axes.plot(means.index, means, **line_style(k), label=label)
    axes.set(xlabel="layer", xticks=layer_ticks(table["layer"].unique()))
