"""Attention of the placeholder, and of the end token to it, in each layer: means over the heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import (
    Measured,
    Part,
    Row,
    interval_text,
    mean_of,
    published,
    published_label,
    unique,
    where,
)
from dti_repro.experiments.mechanism.scaled import curves, scaled_words
from dti_repro.experiments.mechanism.style import GREY, layer_ticks, legend, line_style, panels
from dti_repro.experiments.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs
    from dti_repro.experiments.mechanism.states import Reading

TITLES = {
    "itself": "of the placeholder to itself",
    "start": "of the placeholder to the start token",
    "entropy": "entropy of the placeholder's attention (nats)",
    "from_end": "of the end token to the placeholder",
}


def measure(inputs: Inputs) -> Measured:
    """Return the shares of attention of each word in each layer, in the prompt `attention_prompt`."""
    from dti_repro.experiments.mechanism.states import read_word

    rows: list[Row] = []
    notes = []
    for name, encoder in inputs.encoders.items():
        for norm, words, vectors in scaled_words(inputs, name):
            reading = read_word(encoder, inputs.cfg.attention_prompt, vectors, attention=True)
            found = {key: values.tolist() for key, values in shares(reading).items()}
            for k, word in enumerate(words):
                about = {"encoder": name, "group": word.group, "word": word.name, "norm": norm}
                for layer in range(reading.attention.shape[1]):
                    rows.append({**about, "layer": layer, **{key: values[k][layer] for key, values in found.items()}})
        for place, token in ((reading.start, "start"), (reading.end, "end")):
            if place is None:
                kind = encoder.model.config.model_type
                notes.append(f"{name}: the tokenizer of {kind} adds no {token} token to a prompt here: empty columns")
    return Measured(rows, notes)


def shares(reading: Reading) -> dict[str, Tensor]:
    """Return (batch, layers) for each key of TITLES that the prompt has tokens for. Heads are averaged first; the
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


def draw(rows: Sequence[Row]) -> Figure:
    encoders = unique(rows, "encoder")
    kinds = [kind for kind in TITLES if any(row[kind] is not None for row in rows)]
    figure, grid = panels([TITLES[kind] for kind in kinds], len(encoders), PART.title, width=3.6)
    for encoder, line in zip(encoders, grid, strict=True):
        here = where(rows, encoder=encoder)
        layers = unique(here, "layer")
        for kind, axes in zip(kinds, line, strict=True):
            for k, (group, norm, label) in enumerate(curves(here)):
                found = where(here, group=group, norm=norm)
                means = [mean_of(where(found, layer=layer), kind) for layer in layers]
                axes.plot(layers, means, **line_style(k), label=label)
            for name, methods in published()["layer0_attention"].items():
                for (method, values), mark in zip(methods.items(), ("1", "2"), strict=True):
                    if kind in values:
                        label = f"published, {method}, {published_label(name)}"
                        axes.plot([0], [values[kind]], mark, color=GREY, markersize=10, label=label)
            axes.set(xlabel="layer", xticks=layer_ticks(layers))
        line[0].set_ylabel(encoder)
    legend(figure)
    return figure


def section(rows: Sequence[Row]) -> str:
    text = (
        "Layer 0, mean over heads, then over words ± half of the 95% t interval; the CSV has every layer. "
        "The published figures are of one TI and one DTI embedding of a backpack.\n"
    )
    for encoder in unique(rows, "encoder"):
        here = where(rows, encoder=encoder, layer=0)
        kinds = [kind for kind in TITLES if any(row[kind] is not None for row in here)]
        lines = [[f"{encoder}, words", "norm", "n", *(TITLES[kind] for kind in kinds)]]
        for group, norm in unique([{"pair": (row["group"], row["norm"])} for row in here], "pair"):
            found = where(here, group=group, norm=norm)
            lines.append([group, norm, str(len(found)), *(interval_text(found, kind) for kind in kinds)])
        for name, methods in published()["layer0_attention"].items():
            for method, values in methods.items():
                cells = [f"{values[kind]:.3f}" if kind in values else "" for kind in kinds]
                lines.append([f"published, {method}, {published_label(name)}", "own", "1", *cells])
        text += f"\n{markdown(lines)}"
    return text


PART = Part(
    name="attention",
    title="Attention of and to the placeholder",
    columns={
        "encoder": str,
        "group": str,
        "word": str,
        "norm": str,
        "layer": int,
        **dict.fromkeys(TITLES, float),
    },
    keys=("words", "factors", "attention_prompt"),
    measure=measure,
    draw=draw,
    section=section,
)
