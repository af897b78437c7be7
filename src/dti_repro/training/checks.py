"""What can be wrong with a training that only its method, its optimizer or the tokenizer knows. No model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig
from torch.optim import Optimizer

from dti_repro.adapters.base import Adapter
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.checkpoint import check_words
from dti_repro.backbones.location import located
from dti_repro.config import build, target
from dti_repro.data.concept import Concept
from dti_repro.errors import InputError
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.optim.schedule import split
from dti_repro.optim.spherical_sgd import SphereOptimizer
from dti_repro.training.runs import run_folder, source_config


def check_training(cfg: DictConfig, concepts: Sequence[Concept]) -> None:
    """Raise InputError for what only the method, the optimizer or the tokenizer can judge, before a model is loaded."""
    method = build(cfg.method, TokenMethod | DerivedMethod)
    if isinstance(method, DerivedMethod):
        if method.source.depends_on:
            raise InputError(
                f"method '{cfg.method.name}' transforms one list of vectors, and '{cfg.method.source.name}' learns "
                "other vectors for each layer or timestep: choose another method@method.source"
            )
        return check_training(source_config(cfg), concepts)
    _check_support(cfg, method)
    build(cfg.adapter, Adapter)
    check_words(located(cfg.backbone), [(concept.initializer, concept.placeholder) for concept in concepts])
    _check_optimizer(cfg, method)
    for concept in concepts:
        method.check_templates(concept.captions or cfg.templates.prompts)


def _check_support(cfg: DictConfig, method: TokenMethod) -> None:
    """Raise InputError for a method that asks for more than the backbone has."""
    asked = {
        "layer": "vectors for each cross-attention layer of a UNet",
        "timestep": "other vectors at each timestep",
        "attention": "the attention maps of a UNet",
    }
    supported = target(cfg.backbone._target_, Backbone).SUPPORTS
    needed = method.depends_on | method.needs | ({"attention"} if method.records_attention else set())
    if missing := sorted(needed - supported):
        raise InputError(
            f"method '{cfg.method.name}' needs {asked[missing[0]]}, and backbone '{cfg.backbone.name}' has none: use a "
            "Stable Diffusion backbone, or another method"
        )
    if "attention" in needed and cfg.backbone.checkpointing:  # maps of a pass that is computed twice
        raise InputError(f"method '{cfg.method.name}' reads attention maps: it needs backbone.checkpointing=false")


def _check_optimizer(cfg: DictConfig, method: TokenMethod) -> None:
    name = cfg.optim._target_.split(".")[-1]
    if issubclass(target(cfg.optim._target_, Optimizer), SphereOptimizer) != method.on_sphere:
        kind = "unit directions, which" if method.on_sphere else "free vectors, which"
        fit = "spherical_sgd or adamw_projected" if method.on_sphere else "adamw"
        raise InputError(f"method '{run_folder(cfg).method}' learns {kind} optim {name} cannot step: use optim={fit}")
    settings, _ = split(cfg.optim, cfg.trainer.steps)
    row = torch.ones(1, 1, requires_grad=True)
    optimizer = build(settings, Optimizer, "optim", params=[row])  # which checks its settings
    row.grad = torch.ones(1, 1)
    group = dict(optimizer.param_groups[0])
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError) as error:  # LBFGS asks for a closure, SparseAdam for sparse gradients
        raise InputError(f"optim: {name} cannot step from the gradients alone ({error}): choose another one") from error
    kept = [key for key, value in optimizer.state[row].items() if not torch.is_tensor(value)]
    kept += [key for key, value in optimizer.param_groups[0].items() if group.get(key) != value]
    if kept:
        raise InputError(
            f"optim: {name} keeps '{kept[0]}' outside of the tensors of state[parameter], which are all that a "
            "checkpoint saves: choose another one"
        )
