"""Nearest words of the vocabulary, by cosine and by distance, at several norms."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from dti_repro.experiments.mechanism.part import (
    OWN,
    VOCABULARY,
    Measured,
    Part,
    Row,
    published,
    published_label,
    unique,
    where,
)
from dti_repro.experiments.mechanism.style import legend, line_style, panels
from dti_repro.experiments.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs

SHOWN = 8  # words of a group on the page; the CSV has all
MEASURES = ("cosine", "distance")


def measure(inputs: Inputs) -> Measured:
    """Return the `neighbours` nearest rows of each word: by cosine, which no norm changes, and by distance at the
    word's own norm and at each of `factors` times the vocabulary's mean."""
    import torch.nn.functional as F

    rows: list[Row] = []
    for name, encoder in inputs.encoders.items():
        table = encoder.table.detach().float()
        tokens = encoder.tokenizer.tokenizer.convert_ids_to_tokens(
            list(range(min(len(table), encoder.tokenizer.vocabulary)))
        )
        norms = [(OWN, None), *((f"x{f:g}", f * inputs.mean_norms[name]) for f in inputs.cfg.factors)]
        for word in inputs.words(name):
            asked = [("cosine", OWN, word.vector)]
            for norm, length in norms:
                vector = word.vector if length is None else F.normalize(word.vector, dim=-1) * length
                asked.append(("distance", norm, vector))
            for kind, norm, vector in asked:
                found = nearest(table[: len(tokens)], vector, kind, inputs.cfg.neighbours, word.own)
                about = {"encoder": name, "group": word.group, "word": word.name, "measure": kind, "norm": norm}
                for rank, (token, value) in enumerate(found, 1):
                    rows.append({**about, "rank": rank, "neighbour": _readable(tokens[token]), "value": value})
    return Measured(rows)


def nearest(table: Tensor, vector: Tensor, kind: str, count: int, own: int | None = None) -> list[tuple[int, float]]:
    """Return (row, value) of the rows of a table (words, dim) that are nearest to a vector (dim,), by `cosine` or by
    Euclidean `distance`. Rows that are all zero, and the row `own`, are left out."""
    import torch

    lengths = table.norm(dim=-1)
    products = table @ vector
    if kind == "cosine":
        values = products / (lengths * vector.norm())
    else:
        values = -(lengths.square() - 2 * products + vector.norm().square()).clamp(min=0).sqrt()
    values = torch.where(lengths > 0, values, -torch.inf)
    if own is not None:
        values[own] = -torch.inf
    best = values.topk(min(count, int(values.isfinite().sum())))
    sign = 1 if kind == "cosine" else -1
    return [(int(row), sign * float(value)) for row, value in zip(best.indices, best.values, strict=True)]


def draw(rows: Sequence[Row]) -> Figure:
    encoders = unique(rows, "encoder")
    figure, ((*axes_of,),) = panels(encoders, title=PART.title)
    for encoder, axes in zip(encoders, axes_of, strict=True):
        here = where(rows, encoder=encoder)
        norms = unique(where(here, measure="distance"), "norm")
        for k, group in enumerate(unique(here, "group")):
            shares = {norm: _shared(where(here, group=group), norm) for norm in norms}
            style = line_style(k)
            axes.plot([OWN], [shares.pop(OWN)], **{**style, "linestyle": ""}, label=group)
            axes.plot(list(shares), list(shares.values()), **style)
        count = max(row["rank"] for row in here)
        axes.set(
            xlabel="norm of the word", ylabel=f"share of the {count} nearest by distance\nthat are nearest by cosine"
        )
        axes.set(ylim=(-0.03, 1.03))
    legend(figure)
    return figure


def section(rows: Sequence[Row]) -> str:
    text = (
        "The nearest rows of the vocabulary, without the word's own. A norm changes distances, and no cosine: far "
        "above the vocabulary's norms, the nearest row is the one with the largest inner product.\n"
    )
    for encoder in unique(rows, "encoder"):
        here = where(rows, encoder=encoder)
        norms = unique(where(here, measure="distance"), "norm")
        last = norms[-1]
        lines = [[f"{encoder}, word", "by cosine", "by distance, own norm", *([f"at {last}"] if last != OWN else [])]]
        for group in unique(here, "group"):
            for word in unique(where(here, group=group), "word")[:SHOWN]:
                found = where(here, group=group, word=word)
                named = word if group == VOCABULARY else f"{group}, {word}"
                pairs = [("cosine", OWN), ("distance", OWN), *([("distance", last)] if last != OWN else [])]
                lines.append([named, *(_list(where(found, measure=kind, norm=norm)) for kind, norm in pairs)])
        text += f"\n{markdown(lines)}"
        shares = [["shared by cosine and distance", "n", *norms]]
        for group in unique(here, "group"):
            found = where(here, group=group)
            shares.append([group, str(len(unique(found, "word"))), *(f"{_shared(found, norm):.2f}" for norm in norms)])
        text += f"\n{markdown(shares)}"
    for name, words in published()["neighbours"].items():
        for word, found in words.items():
            listed = ", ".join(f"{neighbour} {value:.3f}" for neighbour, value in found.items())
            text += f"\nPublished, {published_label(name)}, by cosine to {word}: {listed}.\n"
    return text


def _shared(rows: Sequence[Row], norm: str) -> float:
    """Return the share of the nearest by distance at this norm that are nearest by cosine, mean over words."""
    shares = []
    for word in unique(rows, "word"):
        of_word = where(rows, word=word)
        near, far = (
            {row["neighbour"] for row in where(of_word, measure=kind, norm=at)}
            for kind, at in zip(MEASURES, (OWN, norm), strict=True)
        )
        shares.append(len(near & far) / len(far))
    return sum(shares) / len(shares)


def _list(rows: Sequence[Row]) -> str:
    """Return neighbours and values; tokens such as <mask> are no tags of the page."""
    return " · ".join(f"{escape(row['neighbour'], quote=False)} {row['value']:.2f}" for row in rows)


def _readable(token: str) -> str:
    """Return a token as text: CLIP marks a word's end with </w>, SentencePiece the space before it with ▁."""
    return token.removesuffix("</w>").removeprefix("▁") or token


PART = Part(
    name="neighbours",
    title="Nearest words by cosine and by distance",
    columns={
        "encoder": str,
        "group": str,
        "word": str,
        "measure": str,
        "norm": str,
        "rank": int,
        "neighbour": str,
        "value": float,
    },
    keys=("words", "factors", "neighbours"),
    measure=measure,
    draw=draw,
    section=section,
)
