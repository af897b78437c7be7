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

COLUMNS = ("norm", "at start", "on noise", "gradient", "kappa", "minutes", "published image", "published text")
FORMAT = 2  # of the file with the norms at the start: a higher one makes an old file be computed again
VECTORS = 32  # independent vectors that the norm on noise is averaged over; AdamW works on each number alone


def training_columns(run: ExperimentRun, result: RowResult) -> dict[str, str]:
    """Return the cells of a row by column head."""
    published = result.spec.published
    cells = {"published image": number(published.image), "published text": number(published.text)} if published else {}
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
        "at start": number(fmean(norms["start"].values()) if norms else None),
        "on noise": number(norms.get("noise")),
        "gradient": number(gradient_norm(result.folders)),
        "minutes": number(minutes_per_concept(result.folders)),
    }


def number(value: float | None) -> str:
    """Return three digits after the point between 0.1 and 100, three significant digits elsewhere, "" for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def start_norms(run: ExperimentRun, result: RowResult) -> dict[str, Any]:
    """Return {"start": concept -> norm at the start} for the first training seed of a row, and where AdamW steps free
    vectors, "noise": the norm on random gradients. Nothing for a row without a training of its own.

    The norms are kept in the row's seed folder, because the start needs the text encoder. The file is named after the
    concepts, so that no two jobs write the same one.
    """
    file = start_file(run, result)
    if file is None:
        return {}
    if not file.is_file():
        write_json(file, _start_norms(result.cfgs[0], run.concepts))
    return read_json(file, "remove it")


def start_file(run: ExperimentRun, result: RowResult) -> Path | None:
    """Return where `start_norms` keeps them; None for a row that has no whole training of its own."""
    if not result.cfgs or "source" in result.cfgs[0].method or result.spec.snapshot is not None:
        return None
    key = config_hash({"concepts": list(run.concepts), "format": FORMAT})
    return result.folders[0].seed_folder / f"start_{key}.json"


def _start_norms(cfg: DictConfig, concepts: Mapping[str, Concept]) -> dict[str, Any]:
    import torch

    from dti_repro.backbones.load import load_backbone
    from dti_repro.methods.base import SharedVectors, TokenMethod
    from dti_repro.training.trainer import initializer_embedding

    backbone = load_backbone(cfg.backbone, cfg.trainer.accelerator)
    method = build(cfg.method, TokenMethod)
    method.initialise([initializer_embedding(cfg, concept, backbone) for concept in concepts.values()], backbone.spec)
    start = {
        name: torch.cat([rows.norm(dim=-1).flatten() for rows in method.vectors(c).values()]).mean().item()
        for c, name in enumerate(concepts)
    }
    # AdamW alone decides the norms where it steps the vectors themselves, and nothing changes them after.
    steps_vectors = isinstance(method, SharedVectors) and cfg.method.get("norm_control") is None
    if not steps_vectors or cfg.optim._target_ != "torch.optim.AdamW":
        return {"start": start}
    dims = [encoder.dim for encoder in backbone.spec.encoders.values()]
    return {"start": start, "noise": norms_on_noise(cfg.optim, fmean(start.values()), dims, cfg.trainer.steps)[-1]}


def norms_on_noise(optim: DictConfig | Mapping[str, Any], start: float, dims: Sequence[int], steps: int) -> list[float]:
    """Return the mean norm, at the start and after each step, of vectors that start in random directions with norm
    `start`, and get standard normal gradients. optim: a node with the settings of the optimizer, such as
    conf/optim/adamw.yaml. dims: of the text encoders; the norm is the mean over them."""
    import torch

    from dti_repro.optim.schedule import split

    settings, schedule = split(optim, steps)
    curves = []
    for dim in dims:
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(VECTORS, dim, generator=generator), dim=-1)
        vectors = torch.nn.Parameter(directions * start)
        groups = schedule.groups([{"params": [vectors]}], [torch.nn.ParameterList([vectors])])
        optimizer = build(settings, torch.optim.Optimizer, "optim", params=groups)
        norms = [float(vectors.detach().norm(dim=-1).mean())]
        for step in range(steps):
            schedule.apply(optimizer, [step])
            vectors.grad = torch.randn(VECTORS, dim, generator=generator)
            optimizer.step()
            norms.append(float(vectors.detach().norm(dim=-1).mean()))
        curves.append(norms)
    return [fmean(norms) for norms in zip(*curves, strict=True)]
