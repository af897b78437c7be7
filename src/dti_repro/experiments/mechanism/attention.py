"""Attention of the placeholder, and of the end token to it, in each layer: means over the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.by_layer import OF_LAYER, measured_by_layer, plot_by_layer
from dti_repro.experiments.mechanism.part import Measured, interval_text, published
from dti_repro.experiments.style import GREY, legend, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs
    from dti_repro.experiments.mechanism.states import Reading

NAME = "attention"
TITLE = "Attention of and to the placeholder"
LABELS = {
    "itself": "of the placeholder to itself",
    "start": "of the placeholder to the start token",
    "entropy": "entropy of the placeholder's attention (nats)",
    "from_end": "of the end token to the placeholder",
}
COLUMNS = {**OF_LAYER, **dict.fromkeys(LABELS, float)}
KEYS = ("words", "factors", "attention_prompt")


def measure(inputs: Inputs) -> Measured:
    """Return the shares of attention of each word in each layer, in the prompt `attention_prompt`."""
    rows = measured_by_layer(inputs, inputs.cfg.attention_prompt, shares, attention=True)
    notes = []
    for name, encoder in inputs.encoders.items():
        known = next(row for row in rows if row["encoder"] == name)
        for token in (token for token, key in (("start", "start"), ("end", "from_end")) if key not in known):
            kind = encoder.model.config.model_type
            notes.append(f"{name}: the tokenizer of {kind} adds no {token} token to a prompt here: empty columns")
    return rows, notes


def shares(reading: Reading) -> dict[str, Tensor]:
    """Return (batch, layers) for each key of LABELS that the prompt has tokens for. Heads are averaged first; the
    entropy is that of the mean, in nats."""
    mean = reading.attention.mean(dim=2)
    of_word = mean[:, :, reading.place]
    found = {
        "itself": of_word[..., reading.place],
        "entropy": -(of_word * of_word.clamp(min=1e-12).log()).sum(dim=-1),
    }
    if reading.start is not None:
        found["start"] = of_word[..., reading.start]
    if reading.end is not None:
        found["from_end"] = mean[:, :, reading.end, reading.place]
    return found


def draw(table: DataFrame) -> Figure:
    kinds = _measured(table)
    encoders = table.groupby("encoder", sort=False)
    figure, grid = panels([LABELS[kind] for kind in kinds], len(encoders), TITLE, width=3.6)
    for (encoder, rows), line in zip(encoders, grid, strict=True):
        for kind, axes in zip(kinds, line, strict=True):
            plot_by_layer(axes, rows, kind)
            for name, methods in published()["layer0_attention"].items():
                for (method, values), mark in zip(methods.items(), ("1", "2"), strict=True):
                    if kind in values:
                        label = f"published, {method}, {name}"
                        axes.plot([0], [values[kind]], mark, color=GREY, markersize=10, label=label)
        line[0].set_ylabel(encoder)
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    text = (
        "Layer 0, mean over heads, then over words ± half of the 95% t interval; the CSV has every layer. "
        "The published figures are of one TI and one DTI embedding of a backpack.\n"
    )
    for encoder, first in table[table["layer"] == 0].groupby("encoder", sort=False):
        kinds = _measured(first)
        lines = [[f"{encoder}, words", "norm", "n", *(LABELS[kind] for kind in kinds)]]
        for (group, norm), rows in first.groupby(["group", "norm"], sort=False):
            lines.append([group, norm, str(len(rows)), *(interval_text(rows[kind]) for kind in kinds)])
        for name, methods in published()["layer0_attention"].items():
            for method, values in methods.items():
                cells = [f"{values[kind]:.3f}" if kind in values else "" for kind in kinds]
                lines.append([f"published, {method}, {name}", "own", "1", *cells])
        text += f"\n{markdown(lines)}"
    return text


def _measured(table: DataFrame) -> list[str]:
    """Return the keys of LABELS that have numbers."""
    return [kind for kind in LABELS if table[kind].notna().any()]
