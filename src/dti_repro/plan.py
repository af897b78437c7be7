"""Estimate FLOPs, memory and time of an experiment, or of one run, before it starts.

The count is made at the real widths on the meta device: nothing is computed, allocated or downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import write_json
from dti_repro.artifacts.run_dir import check_name
from dti_repro.config import CONF, build
from dti_repro.cost.device import Device
from dti_repro.cost.workload import workload
from dti_repro.experiments.runner import ExperimentRun
from dti_repro.experiments.spec import Experiment, RowSpec, parse_experiment
from dti_repro.launch.command import command
from dti_repro.launch.sweep import typed_overrides
from dti_repro.metrics.catalogue import metric_config

SHARED = ("backbone", "concepts", "templates")  # groups that train and generate both have


def plan(cfg: DictConfig, overrides: list[str], name: str | None) -> str:
    """Return the report, and write it as json if asked for. overrides: the call's own; name: of the experiment, None
    for a single run. InputError for anything that train, generate or the plan itself does not take."""
    device = build(cfg.device, Device)
    per_pixel = cfg.png_bytes_per_pixel
    experiment = _single(cfg) if name is None else _experiment(cfg, name)
    groups = [(key, override) for override in overrides if (key := _root(override)) not in _own(cfg)]
    shared = tuple(override for key, override in groups if key in SHARED)
    trained = tuple(override for key, override in groups if key not in SHARED)
    made = ExperimentRun(
        experiment, cfg.runs, (*cfg.setup, *shared), (*cfg.train, *trained), tuple(cfg.generate)
    ).choose_concepts(cfg.subjects)
    work = workload(made)
    from dti_repro.cost.estimate import estimate
    from dti_repro.cost.report import report

    found = estimate(work, device, per_pixel)
    if cfg.out is not None:
        assumed = {"device": OmegaConf.to_container(cfg.device, resolve=True), "png_bytes_per_pixel": per_pixel}
        write_json(Path(cfg.out), {"title": experiment.title, "assumed": assumed, **found.as_json()})
    return report(experiment.title, found, device)


def _experiment(cfg: DictConfig, name: str) -> Experiment:
    searched = Path(cfg.searched) if cfg.searched else CONF / "experiment" / "searched.yaml"
    content = OmegaConf.to_container(cfg.experiment, resolve=True)
    return parse_experiment(check_name(name, "experiment"), content, searched)


def _single(cfg: DictConfig) -> Experiment:
    """One setting, of which the call's own overrides say everything."""
    sets = yaml.safe_load((CONF / "evaluate.yaml").read_text())["sets"]
    given = OmegaConf.to_container(cfg.metrics) if OmegaConf.is_list(cfg.metrics) else cfg.metrics
    metrics = given if isinstance(given, list) else sets.get(given, [given])
    for metric in metrics:
        metric_config(metric)
    choices = HydraConfig.get().runtime.choices
    title = f"{choices['method']} on {choices['backbone']}"
    row = RowSpec("run", title)
    return Experiment("plan", title, (), {metric: metric for metric in metrics}, "", (), (row,))


def _own(cfg: DictConfig) -> set[str]:
    """Keys of the plan itself, which are no keys of train."""
    train = {"concepts", "templates", "optim", "backbone", "method", "adapter", "trainer", "seed"}
    return {str(key) for key in cfg} - train | {"experiment", "hydra"}


def _root(override: str) -> str:
    return re.split(r"[.@=/]", override.lstrip("+~"), maxsplit=1)[0]


@command("plan")
def main(cfg: DictConfig) -> None:
    hydra = HydraConfig.get()
    print(plan(cfg, typed_overrides(hydra), hydra.runtime.choices["experiment"]))


if __name__ == "__main__":
    main()
