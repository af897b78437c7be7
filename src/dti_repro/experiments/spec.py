"""What a yaml in ``experiments/`` says: rows, how they are trained and scored, and which orderings are
claimed.

Imports no torch.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_yaml
from dti_repro.errors import InputError
from dti_repro.experiments.tables import Claim
from dti_repro.launch.devices import check_count

BOUNDS = ("class", "description", "references")
CLAIM = ("better", "worse", "says", "source", "metrics")
HINTS = {"source": "say who claims or published it, such as the paper or yourself"}


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


def parse_experiment(name: str, config: Any, searched: Path) -> Experiment:
    """The experiment of a plain nested mapping. InputError that names the experiment, the row and the key.

    ``searched`` is the file that a search wrote; rows that say ``searched: <method>`` take their overrides
    from it. Before there was a search they are left out, with the claims about them, and a note says so.
    """
    where = f"experiment '{name}'"
    _check_keys(config, [field.name for field in fields(Experiment)], where)
    missing = sorted({"title", "setup", "metrics", "image", "text", "rows"} - set(config))
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    metrics = _metrics(config["metrics"], where)
    entries = [_entry(entry, where) for entry in _list(config, "rows", where)]
    if not entries:
        raise InputError(f"{where}: rows is empty")
    waiting = {e["name"] for e in entries if "searched" in e and not searched.is_file()}
    rows = tuple(_row(entry, where, searched) for entry in entries if entry["name"] not in waiting)
    names = [row.name for row in rows]
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: two rows are called '{twice[0]}'")
    for row in rows:
        if row.kappa and row.kappa.of not in names[: names.index(row.name)]:
            raise InputError(f"{where}: row '{row.name}' takes kappa of '{row.kappa.of}', which is no row above it")
    notes = _texts(config, "notes", where)
    if waiting:
        notes += (f"{len(waiting)} searched rows are left out: {searched.name} comes from experiment=search.",)
    subjects = config.get("subjects")
    if subjects is not None:
        check_count(f"{where}: subjects", subjects)
    experiment = Experiment(
        name=name,
        title=_text(config, "title", where),
        setup=_texts(config, "setup", where),
        train=_texts(config, "train", where),
        generate=_texts(config, "generate", where),
        subjects=subjects,
        metrics=metrics,
        image=_text(config, "image", where),
        text=_texts(config, "text", where),
        rows=rows,
        claims=_claims(_list(config, "claims", where), names, waiting, metrics, where),
        baselines=_texts(config, "baselines", where),
        search=config.get("search", False),
        training_seeds=_seeds(config.get("training_seeds", ()), where),
        notes=notes,
    )
    if not experiment.text:
        raise InputError(f"{where}: text is empty: name one of its metrics")
    for metric in (experiment.image, *experiment.text):
        if metric not in metrics:
            raise InputError(f"{where}: metric '{metric}' of image or text is not among its metrics")
    for baseline in experiment.baselines:
        if baseline not in names:
            raise InputError(f"{where}: baselines names '{baseline}', which is no row")
    if not isinstance(experiment.search, bool):
        raise InputError(f"{where}: search is {reprlib.repr(experiment.search)}: true or false is needed")
    if experiment.search:
        _check_budget(experiment, where)
    return experiment


def _metrics(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for pair in value.items() for word in pair):
        raise InputError(f"{where}: metrics is {reprlib.repr(value)}: a mapping of metrics to column titles is needed")
    return dict(value)


def _entry(entry: Any, where: str) -> Mapping[str, Any]:
    """A row as it stands in the file, which has a name and no unknown keys."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"{where}: every row needs a name, a text (row: {reprlib.repr(entry)})")
    _check_keys(entry, [field.name for field in fields(RowSpec)], f"{where}, row '{name}'")
    return entry


def _row(entry: Mapping[str, Any], where: str, searched: Path) -> RowSpec:
    where = f"{where}, row '{entry['name']}'"
    bound = entry.get("bound")
    if bound is not None and bound not in BOUNDS:
        raise InputError(f"{where}: bound '{bound}' is none of {', '.join(BOUNDS)}")
    overrides = _texts(entry, "overrides", where)
    if "searched" in entry:
        overrides += _chosen(_text(entry, "searched", where), searched)
    return RowSpec(
        name=entry["name"],
        label=_text(entry, "label", where) if "label" in entry else entry["name"],
        overrides=overrides,
        bound=bound,
        method=_text(entry, "method", where) if "method" in entry else None,
        searched=entry.get("searched"),
        kappa=_kappa(entry["kappa"], f"{where}, kappa") if "kappa" in entry else None,
        published=_published(entry["published"], f"{where}, published") if "published" in entry else None,
    )


def _kappa(entry: Any, where: str) -> RelativeKappa:
    _check_keys(entry, ["fraction", "of"], where)
    return RelativeKappa(_number(entry, "fraction", where), _text(entry, "of", where))


def _published(entry: Any, where: str) -> Published:
    _check_keys(entry, ["image", "text", "source"], where)
    scores = {axis: _number(entry, axis, where) for axis in ("image", "text") if entry.get(axis) is not None}
    return Published(**scores, source=_text(entry, "source", where))


def _chosen(method: str, searched: Path) -> tuple[str, ...]:
    chosen = read_yaml(searched)
    if method not in chosen:
        raise InputError(f"{searched} has no '{method}': the search has no row of this method")
    where = f"{searched}, '{method}'"
    _check_keys(chosen[method], ["row", "overrides", "criterion", "image", "text"], where)
    return _texts(chosen[method], "overrides", where)


def _claims(
    entries: Sequence[Any], names: Sequence[str], waiting: set[str], metrics: Mapping[str, str], where: str
) -> tuple[Claim, ...]:
    """Without those about rows that wait for a search."""
    claims: list[Claim] = []
    for number, entry in enumerate(entries, start=1):
        of = f"{where}, claim {number}"
        _check_keys(entry, CLAIM, of)
        better, worse, says, source = (_text(entry, key, of) for key in ("better", "worse", "says", "source"))
        measured = _texts(entry, "metrics", of)
        if {better, worse} & waiting:
            continue
        if not measured:
            raise InputError(f"{of}: metrics is missing: name those that '{better}' should be better in")
        if unknown := [n for n in (better, worse) if n not in names]:
            raise InputError(f"{where}: claim {number} names '{unknown[0]}', which is no row")
        if unknown := [m for m in measured if m not in metrics]:
            raise InputError(f"{where}: claim {number} names metric '{unknown[0]}', which the experiment does not take")
        claims += [Claim(better, worse, metric, says, source) for metric in measured]
    return tuple(claims)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(seed) is int for seed in value):
        raise InputError(f"{where}: training_seeds is {reprlib.repr(value)}: a list of whole numbers is needed")
    if len(set(value)) < len(value):
        raise InputError(f"{where}: training_seeds names one twice: {reprlib.repr(value)}")
    return tuple(value)


def _list(entry: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = entry.get(key, ())
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: {key} is {reprlib.repr(value)}: a list is needed")
    return value


def _texts(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = _list(entry, key, where)
    if not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: {key} is {reprlib.repr(value)}: a list of texts is needed")
    return tuple(value)


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        needed = HINTS.get(key, "a text is needed")
        raise InputError(f"{where}: {key} is {'missing' if value is None else reprlib.repr(value)}: {needed}")
    return value


def _number(entry: Mapping[str, Any], key: str, where: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} is {reprlib.repr(value)}: a number is needed")
    return value


def _check_keys(config: Any, allowed: Sequence[str], where: str) -> None:
    if not isinstance(config, Mapping):
        raise InputError(
            f"{where} is {reprlib.repr(config)}: a mapping is needed (its keys: {', '.join(sorted(allowed))})"
        )
    if unknown := sorted(map(str, set(config) - set(allowed))):
        raise InputError(f"{where} has no key '{unknown[0]}' (its keys: {', '.join(sorted(allowed))})")


def _check_budget(experiment: Experiment, where: str) -> None:
    """A search is fair only if every method gets as many settings, whatever its number of keys."""
    bounds = {row.bound for row in experiment.rows if row.bound}
    if absent := sorted(set(BOUNDS) - bounds):
        raise InputError(f"{where}: a search needs a row with bound {absent[0]}, as scores are scaled between bounds")
    counts = Counter(row.method for row in experiment.rows if row.bound is None)
    if None in counts:
        raise InputError(f"{where}: every row of a search says its method")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise InputError(f"{where}: every method must have the same number of rows, there are {listed}")
