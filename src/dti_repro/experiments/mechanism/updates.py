"""Residual updates: how much each layer changes a token's state, relative to the state, by the token's norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.by_layer import OF_LAYER, measured_by_layer, plot_by_layer
from dti_repro.experiments.mechanism.part import Measured, interval_text
from dti_repro.experiments.style import encoder_panels, legend, log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs
    from dti_repro.experiments.mechanism.states import Reading

NAME = "residual_updates"
TITLE = "Residual updates of the token, layer by layer"
COLUMNS = {**OF_LAYER, "state": float, "update": float}
KEYS = ("words", "factors", "prompt")
DEPTHS = 6  # layers in a line of the page, evenly spaced; the CSV has all


def measure(inputs: Inputs) -> Measured:
    """Return the relative update of each word in each layer, counted from 0, in the prompt `prompt`."""
    return measured_by_layer(inputs, inputs.cfg.prompt, numbers), []


def numbers(reading: Reading) -> dict[str, Tensor]:
    """Return (batch, layers): the length of the state before each layer, and the layer's relative update."""
    return {"state": reading.states[:, :-1].norm(dim=-1), "update": reading.relative_updates()}


def draw(table: DataFrame) -> Figure:
    figure, panels = encoder_panels(table, TITLE)
    for rows, axes in panels:
        plot_by_layer(axes, rows, "update")
        axes.set_ylabel("|what the layer adds| / |state|")
        log_scale(axes.yaxis)
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    text = (
        "The length of what a layer adds to the token's state over the length of the state, mean over words ± half of "
        "the 95% t interval; `own` is the word's own norm, x10 ten times the vocabulary's mean.\n"
    )
    for encoder, of_encoder in table.groupby("encoder", sort=False):
        layers = of_encoder["layer"].unique()
        layers = layers[np.unique(np.linspace(0, len(layers) - 1, DEPTHS).round().astype(int))]
        lines = [[f"{encoder}, words", "norm", "n", *(f"layer {layer}" for layer in layers)]]
        for (group, norm), rows in of_encoder.groupby(["group", "norm"], sort=False):
            by_layer = [rows[rows["layer"] == layer]["update"] for layer in layers]
            lines.append([group, norm, str(len(by_layer[0])), *map(interval_text, by_layer)])
        text += f"\n{markdown(lines)}"
    return text
