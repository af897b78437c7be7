"""Positional attenuation: whether a token's position can be read after the first LayerNorm, by the token's norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import (
    VOCABULARY,
    Measured,
    Part,
    Row,
    mean_of,
    published,
    published_label,
    unique,
    where,
)
from dti_repro.experiments.mechanism.style import GREY, legend, line_style, panels, ticks
from dti_repro.experiments.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dti_repro.experiments.mechanism.inputs import Inputs

PLACES = ("position 0", "all positions")


def measure(inputs: Inputs) -> Measured:
    """Return the accuracy of the probe for held-out words of the vocabulary at their own norms and at each of `norms`,
    and for the learned words at their own, once for each of `seeds`."""
    import torch
    import torch.nn.functional as F

    from dti_repro.experiments.mechanism.position_probe import PositionProbe, adds_positions

    rows: list[Row] = []
    notes = []
    for name, encoder in inputs.encoders.items():
        if not adds_positions(encoder):
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
    return Measured(rows, notes)


def draw(rows: Sequence[Row]) -> Figure:
    encoders = unique(rows, "encoder")
    figure, ((*axes_of,),) = panels(encoders, title=PART.title)
    for encoder, axes in zip(encoders, axes_of, strict=True):
        here = where(rows, encoder=encoder)
        for k, place in enumerate(PLACES):
            at = {row["norm"]: row["tokens"] for row in where(here, place=place) if _is_norm(row["tokens"])}
            shares = [mean_of(where(here, place=place, tokens=tokens), "accuracy") for tokens in at.values()]
            axes.plot(list(at), shares, **line_style(k), label=place)
            marks = list(at)
        for group in _groups(here):
            found = where(here, tokens=group, place=PLACES[0])
            style = {**line_style(2 + _groups(here).index(group)), "linestyle": ""}
            axes.plot([mean_of(found, "norm")], [mean_of(found, "accuracy")], **style, label=f"{group}, {PLACES[0]}")
        for dashes, (name, shares) in zip(("--", ":"), published()["positional_attenuation"].items(), strict=True):
            points = {float(norm): share for norm, share in shares.items() if _is_norm(norm)}
            label = f"published, {published_label(name)}, {PLACES[0]}"
            axes.plot(list(points), list(points.values()), color=GREY, linestyle=dashes, linewidth=1.2, label=label)
        axes.set(xlabel="norm of the token", ylabel="share of positions read", xscale="log", ylim=(-0.03, 1.03))
        ticks(axes, marks)
    legend(figure)
    return figure


def section(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    heads = [VOCABULARY, *(tokens for tokens in unique(rows, "tokens") if _is_norm(tokens))]
    groups = _groups(rows)
    lines = [["norm of the token", *heads, *groups]]
    for encoder in unique(rows, "encoder"):
        for place in PLACES:
            here = where(rows, encoder=encoder, place=place)
            lines.append([f"{encoder}, {place}", *(_cell(where(here, tokens=head)) for head in (*heads, *groups))])
    for name, shares in published()["positional_attenuation"].items():
        cells = [f"{shares[head]:.3f}" if head in shares else "" for head in (*heads, *groups)]
        lines.append([f"published, {published_label(name)}, {PLACES[0]}", *cells])
    held_out = where(rows, tokens=VOCABULARY)[0]["n"]
    learned = "".join(f", {where(rows, tokens=group)[0]['n']} words of {group}" for group in groups)
    return (
        "A perceptron (dim-dim-positions, ReLU) reads the position from LayerNorm1(token + position). It is trained on "
        "four fifths of the vocabulary at its own norms and tested on the others, rescaled; `vocabulary` and the "
        f"methods are at their own norms. Tested: {held_out} words{learned}; probes: {len(unique(rows, 'seed'))}; in "
        "brackets the lowest and the highest of the probes. Compare position 0 with the published figures, which read "
        f"no other.\n\n{markdown(lines)}"
    )


def _cell(rows: Sequence[Row]) -> str:
    values = [row["accuracy"] for row in rows]
    if not values:
        return ""
    spread = f" [{min(values):.3f}, {max(values):.3f}]" if max(values) > min(values) else ""
    return f"{sum(values) / len(values):.3f}{spread}"


def _is_norm(tokens: str) -> bool:
    return tokens[0].isdigit()


def _groups(rows: Sequence[Row]) -> list[str]:
    return [tokens for tokens in unique(rows, "tokens") if tokens != VOCABULARY and not _is_norm(tokens)]


PART = Part(
    name="positions",
    title="Positional attenuation",
    columns={
        "encoder": str,
        "tokens": str,
        "norm": float,
        "place": str,
        "seed": int,
        "accuracy": float,
        "n": int,
    },
    keys=("norms", "seeds"),
    measure=measure,
    draw=draw,
    section=section,
)
