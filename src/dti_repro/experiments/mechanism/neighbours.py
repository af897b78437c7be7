"""Nearest words of the vocabulary, by cosine and by distance, at several norms."""

from __future__ import annotations

from html import escape
from statistics import fmean
from typing import TYPE_CHECKING

from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.part import OWN, VOCABULARY, Measured, Row, published
from dti_repro.experiments.style import encoder_panels, legend, line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

    from dti_repro.experiments.mechanism.inputs import Inputs

NAME = "neighbours"
TITLE = "Nearest words by cosine and by distance"
COLUMNS = {
    **dict.fromkeys(("encoder", "group", "word", "measure", "norm"), str),
    "rank": int,
    "neighbour": str,
    "value": float,
}
KEYS = ("words", "factors", "neighbours")
SHOWN = 8  # words of a group on the page; the CSV has all


def measure(inputs: Inputs) -> Measured:
    """Return the `neighbours` nearest rows of each word: by cosine, which no norm changes, and by distance at the
    word's own norm and at each of `factors` times the vocabulary's mean."""
    import torch.nn.functional as F

    rows: list[Row] = []
    for name, encoder in inputs.encoders.items():
        table = encoder.table.detach().float()
        tokens = encoder.tokenizer.tokenizer.convert_ids_to_tokens(range(min(len(table), encoder.tokenizer.vocabulary)))
        # CLIP marks a word's end with </w>, SentencePiece the space before it with ▁.
        texts = [token.removesuffix("</w>").removeprefix("▁") or token for token in tokens]
        for word in inputs.words(name):
            asked = [("cosine", OWN, word.vector), ("distance", OWN, word.vector)]
            for factor in inputs.cfg.factors:
                length = factor * inputs.mean_norms[name]
                asked.append(("distance", f"x{factor:g}", F.normalize(word.vector, dim=-1) * length))
            for kind, norm, vector in asked:
                found = nearest(table[: len(texts)], vector, kind, inputs.cfg.neighbours, word.own)
                about = {"encoder": name, "group": word.group, "word": word.name, "measure": kind, "norm": norm}
                for rank, (token, value) in enumerate(found, 1):
                    rows.append({**about, "rank": rank, "neighbour": texts[token], "value": value})
    return rows, []


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


def draw(table: DataFrame) -> Figure:
    figure, panels = encoder_panels(table, TITLE)
    for rows, axes in panels:
        for k, (group, of_group) in enumerate(rows.groupby("group", sort=False)):
            shares = {norm: _shared(of_group, norm) for norm in _norms(rows)}
            style = line_style(k)
            axes.plot([OWN], [shares.pop(OWN)], **{**style, "linestyle": ""}, label=group)
            axes.plot(list(shares), list(shares.values()), **style)
        nearest_by = f"share of the {rows['rank'].max()} nearest by distance\nthat are nearest by cosine"
        axes.set(xlabel="norm of the word", ylabel=nearest_by, ylim=(-0.03, 1.03))
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    text = (
        "The nearest rows of the vocabulary, without the word's own. A norm changes distances, and no cosine: far "
        "above the vocabulary's norms, the nearest row is the one with the largest inner product.\n"
    )
    for encoder, of_encoder in table.groupby("encoder", sort=False):
        norms = _norms(of_encoder)
        columns = {("cosine", OWN): "by cosine", ("distance", OWN): "by distance, own norm"}
        if norms[-1] != OWN:
            columns["distance", norms[-1]] = f"at {norms[-1]}"
        lines = [[f"{encoder}, word", *columns.values()]]
        shares = [["shared by cosine and distance", "n", *norms]]
        for group, of_group in of_encoder.groupby("group", sort=False):
            words = list(of_group.groupby("word", sort=False))
            for word, rows in words[:SHOWN]:
                named = word if group == VOCABULARY else f"{group}, {word}"
                found = dict(list(rows.groupby(["measure", "norm"])))
                lines.append([named, *(_list(found[key]) for key in columns)])
            shares.append([group, str(len(words)), *(f"{_shared(of_group, norm):.2f}" for norm in norms)])
        text += f"\n{markdown(lines)}\n{markdown(shares)}"
    for name, words in published()["neighbours"].items():
        for word, found in words.items():
            listed = ", ".join(f"{neighbour} {value:.3f}" for neighbour, value in found.items())
            text += f"\nPublished, {name}, by cosine to {word}: {listed}.\n"
    return text


def _norms(table: DataFrame) -> list[str]:
    return list(table[table["measure"] == "distance"]["norm"].unique())


def _shared(table: DataFrame, norm: str) -> float:
    """Return the share of the nearest by distance at this norm that are nearest by cosine, mean over words."""
    near = table[table["measure"] == "cosine"].groupby("word")["neighbour"].agg(set)
    far = table[(table["measure"] == "distance") & (table["norm"] == norm)].groupby("word")["neighbour"].agg(set)
    return fmean(len(near[word] & found) / len(found) for word, found in far.items())


def _list(rows: DataFrame) -> str:
    """Return neighbours and values; tokens such as <mask> are no tags of the page."""
    pairs = zip(rows["neighbour"], rows["value"], strict=True)
    return " · ".join(f"{escape(neighbour, quote=False)} {value:.2f}" for neighbour, value in pairs)
