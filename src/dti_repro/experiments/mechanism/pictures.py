"""Text score against the norm of one direction: the word's direction stays, its norm changes, nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dti_repro.data.prompts import load_prompts
from dti_repro.experiments.markdown import markdown
from dti_repro.experiments.mechanism.part import OWN, VOCABULARY, WORD, Measured, Row, interval_text
from dti_repro.experiments.style import legend, line_style, log_scale, panels
from dti_repro.metrics.catalogue import metric_config, metric_identity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

    from dti_repro.backbones.backbone import Backbone
    from dti_repro.data.prompts import PromptSet
    from dti_repro.experiments.mechanism.inputs import Inputs

NAME = "text_score_by_norm"
TITLE = "Text score by the norm of one direction"
COLUMNS = {"group": str, "word": str, "norm": str, "length": float, "metric": str, "images": int, "score": float}
KEYS = ("words",)


def measure(inputs: Inputs) -> Measured:
    """Return the mean score of each word's images at each of `picture.norms` times the vocabulary's mean, and of
    learned words at their own norm. Nothing is drawn without `picture.norms`."""
    import torch
    from rich.progress import track

    from dti_repro.backbones.load import load_backbone

    settings = _settings(inputs)
    if not settings["norms"]:
        return [], ["Nothing was drawn: `picture.norms=[1,5,20]` draws, and scores the text"]
    prompts = load_prompts(settings["prompts"])
    words = _words(inputs)
    rows: list[Row] = []
    model = load_backbone(inputs.cfg.backbone, settings["accelerator"])
    for group, name, class_word, vectors in track(words, "drawing", disable=not settings["progress"]):
        lengths = {} if group == VOCABULARY else {OWN: vectors}
        for factor in settings["norms"]:
            lengths[f"x{factor:g}"] = {
                encoder: torch.nn.functional.normalize(value, dim=-1) * factor * inputs.mean_norms[encoder]
                for encoder, value in vectors.items()
            }
        for norm, scaled in lengths.items():
            found = word_scores(model, class_word, scaled, prompts, settings)
            for metric, values in found.items():
                finite = values[values.isfinite()]
                about = {"group": group, "word": name, "norm": norm, "metric": metric, "images": len(finite)}
                length = sum(float(v.norm(dim=-1).mean()) for v in scaled.values()) / len(scaled)
                rows.append({**about, "length": length, "score": float(finite.mean())} if len(finite) else about)
    return rows, []


def depends(inputs: Inputs) -> dict[str, Any]:
    """Return what the images and their scores depend on besides the words; nothing if nothing is drawn."""
    settings = _settings(inputs)
    if not settings["norms"]:
        return {}
    more = {
        **{key: settings[key] for key in ("norms", "seeds", "steps", "guidance")},
        "backbone": OmegaConf.to_container(inputs.cfg.backbone, resolve=True),
        "prompts": [[prompt.template, prompt.expect] for prompt in load_prompts(settings["prompts"]).prompts],
        "metrics": {name: metric_identity(metric_config(name)) for name in settings["metrics"]},
    }
    return {"more": more}


def word_scores(
    model: Backbone,
    class_word: str,
    vectors: Mapping[str, Tensor],
    prompts: PromptSet,
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Return metric -> (images,) of the images that a word with these vectors (text encoder -> (vectors, dim)) gives
    for each prompt and seed. settings: seeds, steps, guidance, metrics, batch. Prompts are scored with the class word;
    NaN where an image has nothing that a metric reads."""
    from dti_repro.config import build
    from dti_repro.metrics.base import ImageMetric, Sample

    wanted = [(prompt, seed) for prompt in prompts.prompts for seed in settings["seeds"]]
    options = {"steps": settings["steps"], "guidance": settings["guidance"]}
    images = []
    for k in range(0, len(wanted), settings["batch"]):
        part = wanted[k : k + settings["batch"]]
        texts, seeds = [prompt.fill({"": WORD}) for prompt, _ in part], [seed for _, seed in part]
        images += model.generate(texts, {WORD: vectors}, seeds, **options)
    samples = [
        Sample(class_word, prompt.fill({"": class_word}), {**(prompt.expect or {}), "class": class_word})
        for prompt, _ in wanted
    ]
    return {name: build(metric_config(name), ImageMetric).score(images, samples) for name in settings["metrics"]}


def _settings(inputs: Inputs) -> dict[str, Any]:
    return OmegaConf.to_container(inputs.cfg.picture, resolve=True)


def _words(inputs: Inputs) -> list[tuple[str, str, str, dict[str, Tensor]]]:
    """Return (group, name, class word, vectors) of the learned words; of the vocabulary's if there are none. A learned
    word without a run has no class word, and is left out."""
    from dti_repro.inference.selection import learned_subject

    learned = [
        (word.group, word.name, learned_subject(word.run, word.run.embedding).text, vectors)
        for word, vectors in zip(inputs.learned, inputs.vectors, strict=True)
        if word.run is not None
    ]
    if learned:
        return learned
    found: dict[str, dict[str, Tensor]] = {}
    for encoder in inputs.encoders:
        for word in inputs.words(encoder):
            if word.group == VOCABULARY:
                found.setdefault(word.name, {})[encoder] = word.vector[None]
    whole = {name: vectors for name, vectors in found.items() if len(vectors) == len(inputs.encoders)}
    return [(VOCABULARY, name, name, vectors) for name, vectors in whole.items()]


def draw(table: DataFrame) -> Figure:
    from dti_repro.experiments.statistics import t_interval

    metrics = table["metric"].unique()
    figure, (line,) = panels(metrics, title=TITLE)
    scored = table[table["score"].notna() & (table["norm"] != OWN)]
    for metric, axes in zip(metrics, line, strict=True):
        for k, (group, rows) in enumerate(scored[scored["metric"] == metric].groupby("group", sort=False)):
            points = [(found["length"].mean(), t_interval(found["score"])) for _, found in rows.groupby("norm")]
            lengths, intervals = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            means = [interval.mean for interval in intervals]
            halves = [interval.half_width if interval.n > 1 else 0.0 for interval in intervals]
            axes.errorbar(lengths, means, halves, **line_style(k), elinewidth=0.8, capsize=3, label=group)
        axes.set(xlabel="norm of the vector", ylabel=metric)
        log_scale(axes.xaxis)
    legend(figure)
    return figure


def section(table: DataFrame) -> str:
    norms = sorted(table["norm"].unique(), key=lambda norm: norm != OWN)  # the own norm first, the others as they are
    lines = [["metric", "words", "n", "images a word", *norms]]
    for (metric, group), rows in table.groupby(["metric", "group"], sort=False):
        cells = [interval_text(rows[rows["norm"] == norm]["score"]) for norm in norms]
        lines.append([metric, group, str(rows["word"].nunique()), str(rows["images"].max()), *cells])
    return (
        "The direction of a word stays and its norm is set to a multiple of the vocabulary's mean; prompts are scored "
        "with the class word. Mean over words ± half of the 95% t interval, which the figure's bars show.\n\n"
        f"{markdown(lines)}"
    )
