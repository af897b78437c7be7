"""Numbers of each layer, of words at several norms: the vocabulary's at multiples of its mean, learned ones at their
own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import OWN, VOCABULARY, Row
from dti_repro.experiments.style import line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs
    from dti_repro.experiments.mechanism.states import Reading

OF_LAYER = {"encoder": str, "group": str, "word": str, "norm": str, "layer": int}
"""The columns that say which word, norm and layer a row is about."""


def measured_by_layer(
    inputs: Inputs, template: str, numbers: Callable[[Reading], Mapping[str, Tensor]], attention: bool = False
) -> list[Row]:
    """Return a row for each layer, counted from 0, of all words at their own norms, then of the vocabulary's at each of
    `factors` times its mean. numbers: of a reading of the template, column -> (words, layers)."""
    import torch
    from torch.nn.functional import normalize

    from dti_repro.experiments.mechanism.states import read_word

    rows: list[Row] = []
    for name, encoder in inputs.encoders.items():
        words = inputs.words(name)
        plain = [word for word in words if word.group == VOCABULARY]
        scaled = [(OWN, word, word.vector) for word in words]
        for factor in inputs.cfg.factors:
            length = factor * inputs.mean_norms[name]
            scaled += [(f"x{factor:g}", word, normalize(word.vector, dim=-1) * length) for word in plain]
        reading = read_word(encoder, template, torch.stack([vector for _, _, vector in scaled]), attention)
        found = {key: values.tolist() for key, values in numbers(reading).items()}
        for k, (norm, word, _) in enumerate(scaled):
            about = {"encoder": name, "group": word.group, "word": word.name, "norm": norm}
            lines = zip(*(values[k] for values in found.values()), strict=True)
            rows += [{**about, "layer": i, **dict(zip(found, line, strict=True))} for i, line in enumerate(lines)]
    return rows


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
    layers = table["layer"].unique()
    axes.set(xlabel="layer", xticks=layers[:: max(1, len(layers) // 8)])
