"""The norm by step of each method, beside what AdamW does to the norm on random gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from dti_repro.artifacts.files import sha256
from dti_repro.artifacts.run_dir import log_column
from dti_repro.backbones.checkpoint import encoder_dims
from dti_repro.config import CONF
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.part import Measured, Row
from dti_repro.experiments.style import legend, line_style, log_scale, panels
from dti_repro.experiments.training_columns import norms_on_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from dti_repro.experiments.mechanism.inputs import Inputs

NAME = "norm_by_step"
TITLE = "Norm by training step, and of AdamW on random gradients"
COLUMNS = {"kind": str, "label": str, "step": int, "norm": float, "n": int}
KEYS = ("rates", "steps")
EVERY = 5  # steps between two rows of the CSV
ADAMW = "torch.optim.AdamW"


def measure(inputs: Inputs) -> Measured:
    """Return the norm by step: of each method, mean over its words; of vectors that get random gradients, once for
    each method that AdamW trains (from the norm that it had after its first step) and, without runs, for each of
    `rates` (from the vocabulary's mean)."""
    dims = list(encoder_dims(inputs.checkpoint).values())
    rows: list[Row] = []
    notes = []
    for group in dict.fromkeys(word.group for word in inputs.learned):
        logged = [run for of, run in inputs.logged if of == group]
        if not logged:
            notes.append(f"{group}: there is no log of a training")
            continue
        curves = [log_column(run.log, "norm") for run in logged]
        steps = min(map(len, curves))
        means = np.mean([curve[:steps] for curve in curves], axis=0).tolist()
        rows += _rows("training", group, means, len(curves))
        optim = logged[0].settings("optim")
        if optim.get("_target_") == ADAMW:
            label = f"{group}, AdamW {optim.get('lr')} on noise"
            rows += _rows("noise", label, norms_on_noise(optim, means[0], dims, steps - 1), 1)
    if not rows:
        start = sum(inputs.mean_norms.values()) / len(dims)
        adamw = OmegaConf.to_container(OmegaConf.load(CONF / "optim" / "adamw.yaml"))
        for rate in inputs.cfg.rates:
            curve = norms_on_noise({**adamw, "lr": rate}, start, dims, inputs.cfg.steps)
            rows += _rows("noise", f"AdamW {rate:g} on noise", curve[1:], 1)
    return rows, notes


def depends(inputs: Inputs) -> dict[str, Any]:
    """Return the digests of the logs."""
    return {"logs": [sha256(run.log) for _, run in inputs.logged]}


def _rows(kind: str, label: str, norms: Sequence[float], n: int) -> list[Row]:
    last = len(norms)
    kept = [step for step in range(1, last + 1) if step in (1, last) or step % EVERY == 0]
    return [{"kind": kind, "label": label, "step": step, "norm": norms[step - 1], "n": n} for step in kept]


def draw(table: DataFrame) -> Figure:
    figure, ((axes,),) = panels([""], title=TITLE)
    looks = {
        "training": {"linewidth": 1.8, "linestyle": "-", "markevery": 10},
        "noise": {"linewidth": 1.2, "linestyle": "--", "marker": ""},
    }
    for kind, look in looks.items():
        for k, (label, rows) in enumerate(table[table["kind"] == kind].groupby("label", sort=False)):
            axes.plot(rows["step"], rows["norm"], **{**line_style(k), **look}, label=label)
    axes.set(xlabel="step", ylabel="norm of the vector")
    log_scale(axes.yaxis)
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    lines = [["", "n", "steps", "norm after the first step", "norm at the end"]]
    for label, rows in table.groupby("label", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        n = str(first["n"]) if first["kind"] == "training" else ""
        lines.append([label, n, str(last["step"]), f"{first['norm']:.3f}", f"{last['norm']:.3f}"])
    return (
        "Mean over the words of a method (n). On noise: 32 vectors get standard normal gradients, from the method's "
        "norm after its first step (without runs: from the vocabulary's mean). AdamW divides by the gradient's size, "
        f"so a norm means something only beside the one that it reaches on noise.\n\n{markdown(lines)}"
    )
