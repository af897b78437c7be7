"""The columns of a table that describe the training of its rows: norms, gradient, kappa, minutes.

AdamW divides by the gradient's size, so each step is about lr long whatever the loss says. A learned norm means
something only next to the norm that AdamW gives a vector on random gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_json, write_json
from dti_repro.artifacts.provenance import minutes_per_concept
from dti_repro.artifacts.run_dir import config_hash, final_norm, gradient_norm, log_column
from dti_repro.config import build
from dti_repro.data.concept import Concept
from dti_repro.experiments.configs import ExperimentRun
from dti_repro.experiments.stages import RowResult

COLUMNS = ("norm", "at start", "on noise", "gradient", "kappa", "minutes", "paper image", "paper text")
VECTORS = 32  # independent vectors that the norm on noise is averaged over; AdamW works on each number alone


def training_columns(run: ExperimentRun, result: RowResult) -> dict[str, str]:
    """Return the cells of a row by column head."""
    published = result.spec.published
    cells = {"paper image": number(published.image), "paper text": number(published.text)} if published else {}
    if not result.cfgs:
        return cells
    kappa = OmegaConf.select(result.cfgs[0], "method.prior.kappa")
    cells["kappa"] = "" if kappa is None else f"{kappa:g}"
    if (step := result.spec.snapshot) is not None:  # the other columns are about the whole training
        logs = [folder.log for folder in result.folders if folder.log.is_file()]
        norm = fmean(log_column(log, "norm")[step - 1] for log in logs) if logs else None
        return cells | {"norm": number(norm)}
    norms = start_norms(run, result)
    return cells | {
        "norm": number(final_norm(result.folders)),
        "at start": number(norms.get("start")),
        "on noise": number(norms.get("noise")),
        "gradient": number(gradient_norm(result.folders)),
        "minutes": number(minutes_per_concept(result.folders)),
    }


def number(value: float | None) -> str:
    """Return three digits after the point between 0.1 and 100, three significant digits elsewhere, "" for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def start_norms(run: ExperimentRun, result: RowResult) -> dict[str, float]:
    """Return {"start": mean norm at the start, and with AdamW "noise": the norm on random gradients} for the first
    training seed of a row; nothing for a row without a training of its own.

    The norms are kept in the row's seed folder, because the start needs the text encoder. The file is named after the
    concepts, so that no two jobs write the same one.
    """
    file = _start_file(run, result)
    if file is None:
        return {}
    if not file.is_file():
        write_json(file, _start_norms(result.cfgs[0], list(run.concepts.values())))
    return read_json(file, "remove it")


def has_start_norms(run: ExperimentRun, result: RowResult) -> bool:
    """Return whether `start_norms` has nothing to compute."""
    file = _start_file(run, result)
    return file is None or file.is_file()


def _start_file(run: ExperimentRun, result: RowResult) -> Path | None:
    """Return where the norms are kept; None for a row that has no whole training of its own."""
    if not result.cfgs or "source" in result.cfgs[0].method or result.spec.snapshot is not None:
        return None
    return result.folders[0].seed_folder / f"start_{config_hash({'concepts': list(run.concepts)})}.json"


def _start_norms(cfg: DictConfig, concepts: Sequence[Concept]) -> dict[str, float]:
    import torch

    from dti_repro.backbones.load import load_backbone
    from dti_repro.methods.base import TokenMethod

    backbone = load_backbone(cfg.backbone, cfg.trainer.accelerator)
    method = build(cfg.method, TokenMethod)
    method.initialise([backbone.embed_initializer(c.name, c.initializer, cfg.seed) for c in concepts], backbone.spec)
    vectors = [v for i in range(len(concepts)) for v in method.vectors(i).values()]
    start = torch.cat([v.norm(dim=-1) for v in vectors]).mean().item()
    if cfg.optim._target_ != "torch.optim.AdamW":
        return {"start": start}
    return {"start": start, "noise": norms_on_noise(cfg.optim, start, vectors[0].shape[-1], cfg.trainer.steps)[-1]}


def norms_on_noise(optim: DictConfig | Mapping[str, Any], start: float, dim: int, steps: int) -> list[float]:
    """Return the mean norm, at the start and after each step, of `dim`-wide vectors that start in random directions
    with norm `start`, and get standard normal gradients. optim: a node with the settings of the optimizer, such as
    conf/optim/adamw.yaml."""
    import torch

    from dti_repro.optim.schedule import split

    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(VECTORS, dim, generator=generator), dim=-1)
    vectors = torch.nn.Parameter(directions * start)
    settings, schedule = split(optim, steps)
    groups = schedule.groups([{"params": [vectors]}], [torch.nn.ParameterList([vectors])])
    optimizer = build(settings, torch.optim.Optimizer, "optim", params=groups)
    norms = [float(vectors.detach().norm(dim=-1).mean())]
    for step in range(steps):
        schedule.apply(optimizer, [step])
        vectors.grad = torch.randn(VECTORS, dim, generator=generator)
        optimizer.step()
        norms.append(float(vectors.detach().norm(dim=-1).mean()))
    return norms
