"""What a yaml in ``experiments/`` says: rows, how they are trained and scored, and which orderings are
claimed.

Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from dti_repro.errors import InputError
from dti_repro.results.tables import Claim

BOUNDS = ("class", "description", "references")


@dataclass(frozen=True)
class Published:
    """The paper's image and text scores of a row, and which table they are from; None where it gives none."""

    image: float | None = None
    text: float | None = None
    source: str = ""


@dataclass(frozen=True)
class RelativeKappa:
    """kappa as a fraction of the median gradient norm that the row ``of`` measured in its own training."""

    fraction: float
    of: str

    def override(self, gradient: float) -> str:
        """Of the training, where that row's median gradient norm is this."""
        return f"method.prior.kappa={self.fraction * gradient:.2g}"


@dataclass(frozen=True)
class RowSpec:
    """One row: either a bound (no training) or the train overrides that make it.

    bound: class (the class word), description (the subject's full description) or references (photos against
    photos). method: what the row is a setting of, for a search. searched: take the overrides that a search
    chose for this method.
    """

    name: str
    label: str
    overrides: tuple[str, ...] = ()
    bound: str | None = None
    method: str | None = None
    searched: str | None = None
    kappa: RelativeKappa | None = None
    published: Published | None = None


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    setup: overrides of conf/train.yaml and conf/generate.yaml that all rows share; train, generate: of one
    of them only. subjects: how many of the concepts, the first by name; None: all. metrics: name of
    conf/metric -> column title. image, text: those of the two axes (text: first the one that is drawn).
    baselines: rows that all others are compared with. search: whether the best row of each method is written
    as searched. training_seeds: every row is trained with each, a subject's score being the mean over the pictures of
    all; empty: once, with the configuration's own.
    """

    name: str
    title: str
    setup: tuple[str, ...]
    metrics: Mapping[str, str]
    image: str
    text: tuple[str, ...]
    rows: tuple[RowSpec, ...]
    train: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    subjects: int | None = None
    claims: tuple[Claim, ...] = ()
    baselines: tuple[str, ...] = ()
    search: bool = False
    training_seeds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def parse_experiment(name: str, config: Mapping[str, Any], searched: Path) -> Experiment:
    """The experiment of a plain nested mapping. InputError that names the experiment, the row and the key.

    ``searched`` is the file that a search wrote; rows that say ``searched: <method>`` take their overrides
    from it. Before there was a search they are left out, with the claims about them, and a note says so.
    """
    where = f"experiment '{name}'"
    _check_keys(config, Experiment, where)
    missing = sorted({"title", "setup", "metrics", "image", "text", "rows"} - set(config))
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    waiting = {e.get("name") for e in config["rows"] if "searched" in e and not searched.is_file()}
    rows = tuple(_row(entry, where, searched) for entry in config["rows"] if entry.get("name") not in waiting)
    claims = [c for c in config.get("claims", ()) if not {c["better"], c["worse"]} & waiting]
    notes = tuple(config.get("notes", ()))
    if waiting:
        notes += (f"{len(waiting)} searched rows are left out: {searched.name} comes from experiment=search.",)
    names = [row.name for row in rows]
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: two rows are called '{twice[0]}'")
    metrics = dict(config["metrics"])
    for metric in (config["image"], *config["text"]):
        if metric not in metrics:
            raise InputError(f"{where}: metric '{metric}' of image or text is not among its metrics")
    for baseline in config.get("baselines", ()):
        if baseline not in names:
            raise InputError(f"{where}: baselines names '{baseline}', which is no row")
    for row in rows:
        if row.kappa and row.kappa.of not in names[: names.index(row.name)]:
            raise InputError(f"{where}: row '{row.name}' takes kappa of '{row.kappa.of}', which is no row above it")
    experiment = Experiment(
        name=name,
        title=config["title"],
        setup=tuple(config["setup"]),
        train=tuple(config.get("train", ())),
        generate=tuple(config.get("generate", ())),
        subjects=config.get("subjects"),
        metrics=metrics,
        image=config["image"],
        text=tuple(config["text"]),
        rows=rows,
        claims=tuple(_claims(claims, names, metrics, where)),
        baselines=tuple(config.get("baselines", ())),
        search=bool(config.get("search", False)),
        training_seeds=_seeds(config.get("training_seeds", ()), where),
        notes=notes,
    )
    if experiment.search:
        _check_budget(experiment, where)
    return experiment


def _row(entry: Mapping[str, Any], where: str, searched: Path) -> RowSpec:
    _check_keys(entry, RowSpec, f"{where}, row '{entry.get('name')}'")
    name = entry.get("name")
    if not isinstance(name, str):
        raise InputError(f"{where}: every row needs a name, a string")
    bound = entry.get("bound")
    if bound is not None and bound not in BOUNDS:
        raise InputError(f"{where}, row '{name}': bound '{bound}' is none of {', '.join(BOUNDS)}")
    overrides = tuple(entry.get("overrides", ()))
    if "searched" in entry:
        overrides += _chosen(entry["searched"], searched)
    return RowSpec(
        name=name,
        label=entry.get("label", name),
        overrides=overrides,
        bound=bound,
        method=entry.get("method"),
        searched=entry.get("searched"),
        kappa=RelativeKappa(**entry["kappa"]) if "kappa" in entry else None,
        published=Published(**entry["published"]) if "published" in entry else None,
    )


def _chosen(method: str, searched: Path) -> tuple[str, ...]:
    chosen = yaml.safe_load(searched.read_text())
    if method not in chosen:
        raise InputError(f"{searched} has no '{method}': the search has no row of this method")
    return tuple(chosen[method]["overrides"])


def _claims(entries: Any, names: list[str], metrics: Mapping[str, str], where: str) -> list[Claim]:
    claims = []
    for entry in entries:
        if unknown := [n for n in (entry["better"], entry["worse"]) if n not in names]:
            raise InputError(f"{where}: a claim names '{unknown[0]}', which is no row")
        if unknown := [m for m in entry["metrics"] if m not in metrics]:
            raise InputError(f"{where}: a claim names metric '{unknown[0]}', which the experiment does not take")
        claims += [Claim(entry["better"], entry["worse"], metric, entry["says"]) for metric in entry["metrics"]]
    return claims


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(seed) is int for seed in value):
        raise InputError(f"{where}: training_seeds is {value}: a list of whole numbers is needed")
    if len(set(value)) < len(value):
        raise InputError(f"{where}: training_seeds names one twice: {value}")
    return tuple(value)


def _check_keys(config: Mapping[str, Any], kind: type, where: str) -> None:
    allowed = {field.name for field in fields(kind)}
    if unknown := sorted(set(config) - allowed):
        raise InputError(f"{where} has no key '{unknown[0]}' (its keys: {', '.join(sorted(allowed))})")


def _check_budget(experiment: Experiment, where: str) -> None:
    """A search is fair only if every method gets as many settings, whatever its number of knobs."""
    bounds = {row.bound for row in experiment.rows if row.bound}
    if absent := sorted(set(BOUNDS) - bounds):
        raise InputError(f"{where}: a search needs a row with bound {absent[0]}, as scores are scaled between bounds")
    counts = Counter(row.method for row in experiment.rows if row.bound is None)
    if None in counts:
        raise InputError(f"{where}: every row of a search says its method")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise InputError(f"{where}: every method must have the same number of rows, there are {listed}")
