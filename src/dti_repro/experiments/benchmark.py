"""Train, generate, evaluate and tabulate an experiment, as far as something is missing."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from operator import sub
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dti_repro.artifacts.files import read_json, sha256, write_json
from dti_repro.artifacts.provenance import provenance
from dti_repro.artifacts.run_dir import check_name
from dti_repro.artifacts.scores import read_scores, subject_means
from dti_repro.artifacts.training_facts import final_norm, gradient_norm, machines, minutes_per_concept
from dti_repro.config import CONF, validate
from dti_repro.config.plugins import plugins
from dti_repro.data.masks import check_masks
from dti_repro.errors import InputError
from dti_repro.experiments.grids import comparison, sheets
from dti_repro.experiments.jobs import choose_rows, deal_rows, with_those_they_need
from dti_repro.experiments.report import Setting, write_report
from dti_repro.experiments.runner import ExperimentRun, RowState, check_rows, draw_rows, learn, list_scores, start_norms
from dti_repro.experiments.search import Quality, quality, scales, write_searched
from dti_repro.experiments.spec import Experiment, Published, parse_experiment
from dti_repro.experiments.tables import Row, SubjectMeans
from dti_repro.inference.image_folder import GenerationConfig
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.sweep import as_choices
from dti_repro.metrics.catalogue import metric_config
from dti_repro.metrics.evaluator import ScoreFile, mismatched, score

FACTS = ("norm", "at start", "on noise", "gradient", "kappa", "minutes", "paper image", "paper text")
ELSEWHERE = ("runs", "out", "rows", "accelerator", "devices")  # keys that change no number of a table
SEARCH_FACTS = ("scaled image", "scaled text", "criterion")


def benchmark(cfg: DictConfig) -> int:
    """Run one experiment, or only the chosen rows of it and then without a table; returns how many trainings, pictures
    and columns of scores were missing. InputError before anything runs, where possible."""
    plan = plan_of(cfg, HydraConfig.get().runtime.choices["experiment"])
    experiment = plan.experiment
    configs = {metric: metric_config(metric) for metric in experiment.metrics}
    chosen = choose_rows(experiment, cfg.rows)
    check_rows(plan)
    masks = None if cfg.masks is None else Path(cfg.masks)
    for concept in plan.concepts.values() if masks else ():
        check_masks(masks, concept.name, concept.images)

    clock = [time.time()]
    learned = learn(plan, with_those_they_need(experiment, chosen))
    names = {row.name for row in chosen}
    states = [state for state in learned if state.spec.name in names]
    clock.append(time.time())
    drawn = draw_rows(plan, states)
    clock.append(time.time())
    files = list_scores(plan, states)
    shifted = _mismatched(states) if experiment.search else []
    computed = score([*files, *shifted], configs, masks, cfg.accelerator, cfg.devices)
    norms = start_norms(plan, states)
    clock.append(time.time())
    if cfg.rows is None:
        folder = Path(cfg.out) / experiment.name
        _tabulate(cfg, plan, states, shifted, norms, clock)
        print(f"{computed} columns of scores computed, the rest was there: {folder / 'table.md'}")
    return sum(state.trained for state in learned) + drawn + computed


def plan_of(cfg: DictConfig, choice: str) -> ExperimentRun:
    """The experiment of conf/benchmark.yaml, which was chosen by this name, with its concepts. InputError."""
    name = check_name(choice, "experiment")
    experiment = parse_experiment(name, OmegaConf.to_container(cfg.experiment, resolve=True), _searched(cfg))
    own = (tuple(cfg[key]) for key in ("setup", "train", "generate"))
    plan = ExperimentRun(experiment, cfg.runs, *own).choose_concepts(cfg.subjects)
    alone = [concept.name for concept in plan.concepts.values() if len(concept.images) < 2]
    if experiment.search and alone:
        raise InputError(
            f"experiment '{name}': concept '{alone[0]}' has one photo only: a search scales image scores by those of "
            "photos against one another, and needs two of each concept"
        )
    return plan


def _searched(cfg: DictConfig) -> Path:
    return CONF / "experiment" / "searched.yaml" if cfg.searched is None else Path(cfg.searched)


def made_by(hydra: DictConfig) -> str:
    """The command as it was typed, without what says where it computes and writes only."""
    given = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    here = f"{Path.cwd()}/"
    folders = [f"--config-dir={path.removeprefix('file://').removeprefix(here)}" for path in given]
    line = CommandLine("benchmark", tuple(hydra.overrides.task)).without(*ELSEWHERE)
    named = [f"plugins=[{','.join(plugins())}]"] if plugins() else []
    return shlex.join(["python", "-m", "dti_repro.benchmark", *folders, *named, *line.overrides])


def _tabulate(
    cfg: DictConfig,
    plan: ExperimentRun,
    states: Sequence[RowState],
    shifted: Sequence[ScoreFile],
    norms: Mapping[str, Mapping[str, float]],
    clock: Sequence[float],
) -> None:
    """Write the table and what lies beside it, from what is on disk."""
    experiment, folder = plan.experiment, Path(cfg.out) / plan.experiment.name
    facts = {state.spec.name: _facts(state, norms.get(state.spec.name, {})) for state in states}
    if experiment.search:
        _search(experiment, states, shifted, facts, _searched(cfg))
    rows = [Row(s.spec.name, s.spec.label, means_of(s.files, experiment.metrics), facts[s.spec.name]) for s in states]
    prompts = plan.prompts()
    drawn = plan.generate_config()
    trained = sorted({int(made.seed) for state in states for made in state.cfgs})
    setting = Setting(
        command=made_by(HydraConfig.get()),
        backbone=drawn.backbone._target_,
        subjects=list(plan.concepts),
        prompts=prompts.name,
        prompt_count=len(prompts.prompts),
        training_seeds=trained,
        image_seeds=plan.seeds(),
        masked=cfg.masks is not None,
        reading=GenerationConfig.of(drawn).reading,
    )
    columns = [*FACTS, *(SEARCH_FACTS if experiment.search else ())]
    write_report(folder, experiment, setting, rows, columns, sheets(plan, states))
    comparison(next(iter(plan.concepts.values())), states).save(folder / "grid.png")
    about, scores = folder / "provenance.json", sha256(folder / "scores.csv")
    if not about.is_file() or read_json(about, "remove it").get("scores_sha256") != scores:
        write_json(about, {"scores_sha256": scores, **_provenance(experiment, states, clock, cfg.accelerator)})


def means_of(files: Sequence[ScoreFile], metrics: Mapping[str, object]) -> SubjectMeans:
    """metric -> subject -> mean, of the wanted metrics only (a score file may hold more)."""
    means = subject_means(row for file in files for row in read_scores(file.csv))
    return {metric: means[metric] for metric in metrics if metric in means}


def _provenance(
    experiment: Experiment, states: Sequence[RowState], clock: Sequence[float], accelerator: str
) -> dict[str, object]:
    """Of the call that changed the scores; what was there before it, or what its jobs did elsewhere, took no time in
    it."""
    from dti_repro.backbones.load import device_of

    stages = dict(zip(("train", "generate", "score"), map(sub, clock[1:], clock), strict=True))
    return {
        **provenance(clock[0], device_of(accelerator)),
        "commit": _commit(),
        "minutes": {stage: round(seconds / 60, 2) for stage, seconds in stages.items()},
        "machines": machines([f for s in states for f in s.folders], [f.provenance for s in states for f in s.files]),
        "experiment": asdict(experiment),
        "runs": {s.spec.name: sorted({str(folder.seed_folder) for folder in s.folders}) for s in states if s.folders},
        "overrides": {s.spec.name: list(s.spec.overrides) for s in states},
    }


def _commit() -> str | None:
    """Of the checkout that this code is from, with a plus for changed files; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _facts(state: RowState, norms: Mapping[str, float]) -> dict[str, str]:
    published = state.spec.published or Published(source="")
    facts = {"paper image": _number(published.image), "paper text": _number(published.text)}
    if not state.cfgs:
        return facts
    kappa = OmegaConf.select(state.cfgs[0], "method.prior.kappa")
    return facts | {
        "norm": _number(final_norm(state.folders)),
        "at start": _number(norms.get("start")),
        "on noise": _number(norms.get("noise")),
        "gradient": _number(gradient_norm(state.folders)),
        "kappa": "" if kappa is None else f"{kappa:g}",
        "minutes": _number(minutes_per_concept(state.folders)),
    }


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent where it would not help."""
    if value is None:
        return ""
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def _mismatched(states: Sequence[RowState]) -> list[ScoreFile]:
    return [mismatched(file) for state in states if state.spec.bound == "class" for file in state.files]


def _search(
    experiment: Experiment,
    states: Sequence[RowState],
    shifted: Sequence[ScoreFile],
    facts: dict[str, dict[str, str]],
    searched: Path,
) -> None:
    """Write the best setting of each method, and every row's scaled scores into its facts."""
    metrics = experiment.metrics
    by_bound: dict[str, list[ScoreFile]] = defaultdict(list)
    for state in states:
        by_bound[state.spec.bound or ""] += state.files
    scale = scales(
        experiment.image,
        experiment.text,
        class_word=means_of(by_bound["class"], metrics),
        description=means_of(by_bound["description"], metrics),
        references=means_of(by_bound["references"], metrics),
        mismatched=means_of(shifted, metrics),
    )
    settings = [state for state in states if state.spec.bound is None]
    found: dict[str, Quality] = {}
    for state in settings:
        found[state.spec.name] = quality(experiment.image, experiment.text, means_of(state.files, metrics), scale)
        values = (found[state.spec.name].image, found[state.spec.name].text, found[state.spec.name].criterion)
        facts[state.spec.name] |= dict(zip(SEARCH_FACTS, map(_number, values), strict=True))
    chosen = write_searched(searched, [state.spec for state in settings], found)
    for method, row in chosen.items():
        facts[row]["criterion"] += " (chosen)"
        print(f"searched {method}: {row}, written to {searched}")


def stages(line: CommandLine) -> list[CommandLine]:
    """With a launcher and without -m: the rows as jobs, in as many sweeps as rows wait for one another, then the table,
    here. The experiment is judged before the first job is sent away."""
    if line.multirun or line.value("hydra/launcher") is None or line.flags:
        return [line]
    here = line.without("hydra/launcher", "hydra.launcher", "hydra.sweep.dir")
    cfg = here.compose()
    validate("benchmark", cfg)
    plan = plan_of(cfg, cfg.hydra.runtime.choices["experiment"])
    check_rows(plan)
    sweeps = deal_rows(plan, choose_rows(plan.experiment, cfg.rows))
    jobs = replace(line.without("rows"), multirun=True)
    return [*(jobs.adding(f"rows={as_choices(sweep)}") for sweep in sweeps), here]
