"""Positional attenuation: whether a token's position can be read after the first LayerNorm, by the token's norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.part import VOCABULARY, Measured, Row, published
from dti_repro.experiments.style import GREY, encoder_panels, legend, line_style, ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    from dti_repro.experiments.mechanism.inputs import Inputs

NAME = "positions"
TITLE = "Positional attenuation"
COLUMNS = {"encoder": str, "tokens": str, "norm": float, "place": str, "seed": int, "accuracy": float, "n": int}
KEYS = ("norms", "seeds")
PLACES = ("position 0", "all positions")


def measure(inputs: Inputs) -> Measured:
    """Return the accuracy of the probe for held-out words of the vocabulary at their own norms and at each of `norms`,
    and for the learned words at their own, once for each of `seeds`."""
    import torch
    import torch.nn.functional as F

    from dti_repro.experiments.mechanism.position_probe import PositionProbe, added_positions

    rows: list[Row] = []
    notes = []
    for name, encoder in inputs.encoders.items():
        if added_positions(encoder.model) is None:
            notes.append(
                f"{name}: {encoder.model.config.model_type} adds no vector for a position to its tokens (positions "
                "enter its attention), so there is nothing to read"
            )
            continue
        learned: dict[str, list[torch.Tensor]] = {}
        for word in inputs.words(name):
            if word.group != VOCABULARY:
                learned.setdefault(word.group, []).append(word.vector)
        for seed in inputs.cfg.seeds:
            probe = PositionProbe(encoder, seed)
            unit = F.normalize(probe.held_out, dim=-1)
            tested = {VOCABULARY: probe.held_out, **{f"{norm:g}": unit * norm for norm in inputs.cfg.norms}}
            for group, tokens in {**tested, **{g: torch.stack(v) for g, v in learned.items()}}.items():
                shares = probe.accuracy(tokens)
                about = {"encoder": name, "tokens": group, "norm": float(tokens.norm(dim=-1).mean()), "n": len(tokens)}
                for place, share in zip(PLACES, (shares[0], shares.mean()), strict=True):
                    rows.append({**about, "seed": seed, "place": place, "accuracy": float(share)})
    return rows, notes


def draw(table: DataFrame) -> Figure:
    figure, panels = encoder_panels(table, TITLE)
    for rows, axes in panels:
        means = rows.groupby(["place", "tokens"], sort=False)[["norm", "accuracy"]].mean()
        norms, groups = _norms(rows), _groups(rows)
        for k, place in enumerate(PLACES):
            curve = means.loc[place].loc[norms]
            axes.plot(curve["norm"], curve["accuracy"], **line_style(k), label=place)
        for k, group in enumerate(groups, 2):
            point, style = means.loc[PLACES[0], group], {**line_style(k), "linestyle": ""}
            axes.plot([point["norm"]], [point["accuracy"]], **style, label=f"{group}, {PLACES[0]}")
        for dashes, (name, shares) in zip(("--", ":"), published()["positional_attenuation"].items(), strict=True):
            points = {float(norm): share for norm, share in shares.items() if _is_norm(norm)}
            label = f"published, {name}, {PLACES[0]}"
            axes.plot(list(points), list(points.values()), color=GREY, linestyle=dashes, linewidth=1.2, label=label)
        axes.set(xlabel="norm of the token", ylabel="share of positions read", xscale="log", ylim=(-0.03, 1.03))
        ticks(axes, curve["norm"])
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    heads = [VOCABULARY, *_norms(table), *_groups(table)]
    lines = [["norm of the token", *heads]]
    for encoder, rows in table.groupby("encoder", sort=False):
        for place in PLACES:
            found = rows[rows["place"] == place]
            cells = [_cell(found[found["tokens"] == head]["accuracy"]) for head in heads]
            lines.append([f"{encoder}, {place}", *cells])
    for name, shares in published()["positional_attenuation"].items():
        cells = [f"{shares[head]:.3f}" if head in shares else "" for head in heads]
        lines.append([f"published, {name}, {PLACES[0]}", *cells])
    words = table.groupby("tokens")["n"].first()
    learned = "".join(f", {words[group]} words of {group}" for group in _groups(table))
    return (
        "A perceptron (dim-dim-positions, ReLU) reads the position from LayerNorm1(token + position). It is trained on "
        "four fifths of the vocabulary at its own norms and tested on the others, rescaled; `vocabulary` and the "
        f"methods are at their own norms. Tested: {words[VOCABULARY]} words{learned}; "
        f"probes: {table['seed'].nunique()}; in brackets the lowest and the highest of the probes. Compare "
        f"position 0 with the published figures, which read no other.\n\n{markdown(lines)}"
    )


def _cell(values: Series) -> str:
    if values.empty:
        return ""
    spread = f" [{values.min():.3f}, {values.max():.3f}]" if values.nunique() > 1 else ""
    return f"{values.mean():.3f}{spread}"


def _is_norm(tokens: str) -> bool:
    return tokens[0].isdigit()


def _norms(table: DataFrame) -> list[str]:
    return [tokens for tokens in table["tokens"].unique() if _is_norm(tokens)]


def _groups(table: DataFrame) -> list[str]:
    return [tokens for tokens in table["tokens"].unique() if tokens != VOCABULARY and not _is_norm(tokens)]
