"""What a yaml in `experiments/` says: rows, how they are trained and scored, and which orderings are claimed.

Imports no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from dti_repro.artifacts.files import read_yaml
from dti_repro.config.values import STRICT, check_value
from dti_repro.errors import InputError

Bound = Literal["class", "description", "references"]
KEYS = ConfigDict(**STRICT, extra="forbid")
PLAIN = {
    "Field required": "a value is needed",
    "Unexpected keyword argument": "there is no such key",
    "Input should be": "it must be",
    "a valid array": "a list",
    "an object": "a mapping",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "Tuple should have at least 1 item after validation, not 0": "it must not be empty",
}
"""What pydantic says -> the same in the words of a yaml."""
Texts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=KEYS)
class Published:
    """The paper's image and text scores of a row, and which table they are from; None where it gives none."""

    image: float | None = None
    text: float | None = None
    source: str


@dataclass(frozen=True, config=KEYS)
class RelativeKappa:
    """kappa as a fraction of the median gradient norm that the row `of` measured in its own training."""

    fraction: float
    of: str


@dataclass(frozen=True, config=KEYS)
class RowSpec:
    """One row: either a bound (no training) or the train overrides that make it.

    label: as the table shows it; its name if there is none. bound: class (the class word), description (the subject's
    full description) or references (photos against photos). method: what the row is a setting of, for a search.
    searched: take the overrides that a search chose for this method. snapshot: draw the words as they were at this
    step.
    """

    name: str
    label: str = ""
    overrides: Texts = ()
    bound: Bound | None = None
    method: str | None = None
    searched: str | None = None
    kappa: RelativeKappa | None = None
    snapshot: PositiveInt | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)


@dataclass(frozen=True, config=KEYS)
class Claim:
    """An ordering: row `better` has a higher score than row `worse` on each of `metrics`. source: who claims it, a
    paper or the author of the experiment."""

    better: str
    worse: str
    says: str
    source: str
    metrics: Texts


@dataclass(frozen=True, config=KEYS)
class InterpolationSpec:
    """An interpolation between two subjects' words: the row that has the words, and the mode."""

    name: str
    row: str
    mode: Literal["slerp", "lerp"]
    label: str


@dataclass(frozen=True, config=KEYS)
class Paths:
    """The ways between the words of all pairs of subjects.

    points: images along a way, both words included, for each prompt and image seed. reader: a metric that says whether
    an image shows what it is expected to; it is asked for the class of either end; None: nothing is asked.
    """

    ways: Annotated[tuple[InterpolationSpec, ...], Field(min_length=1)]
    points: Annotated[int, Field(ge=4, le=1000)] = 7  # fewer than three steps say little about evenness
    reader: str | None = None


@dataclass(frozen=True, config=KEYS)
class Experiment:
    """One table or figure.

    setup: overrides of conf/train.yaml and conf/generate.yaml that all rows share; train, generate: of one
    of them only. subjects: how many of the concepts, the first by name; None: all. metrics: name of
    conf/metric -> column title. image, text: those of the two axes (text: first the one that is drawn).
    baselines: rows that all others are compared with. search: whether the best row of each method is written
    as searched. training_seeds: every row is trained with each, a subject's score being the mean over the images of
    all; empty: once, with the configuration's own. snapshots: steps; a row of the yaml becomes one for each of them.
    paths: what is drawn between the words of pairs of subjects.
    """

    name: str
    title: str
    setup: Texts
    metrics: Mapping[str, str]
    image: str
    text: Texts
    rows: tuple[RowSpec, ...]
    train: Texts = ()
    generate: Texts = ()
    subjects: PositiveInt | None = None
    claims: tuple[Claim, ...] = ()
    baselines: Texts = ()
    search: bool = False
    training_seeds: tuple[int, ...] = ()
    snapshots: tuple[PositiveInt, ...] = ()
    paths: Paths | None = None
    notes: Texts = ()


def parse_experiment(name: str, config: Any, searched: Path) -> Experiment:
    """Return the experiment of a plain nested mapping. InputError that names the experiment and the key.

    `searched` is the file that searches write; rows that say `searched: <method>` take their overrides from it. Before
    there was a search of the method they are left out, as claims and comparisons with them are, and a note says so.
    """
    content = {**config, "name": name} if isinstance(config, Mapping) else config
    try:
        experiment = TypeAdapter(Experiment).validate_json(json.dumps(content))
    except ValidationError as error:
        raise InputError(f"experiment '{name}'{_explain(error.errors()[0], content)}") from error
    wanted = [row for row in experiment.rows if row.searched]
    chosen = read_yaml(searched) if wanted and searched.is_file() else {}
    waiting = {row.name: row.searched for row in wanted if row.searched not in chosen}
    rows: list[RowSpec] = []
    for row in experiment.rows:
        if row.name not in waiting:
            overrides = _overrides(chosen, row.searched, searched) if row.searched else ()
            rows += _at_steps(replace(row, overrides=row.overrides + overrides), experiment.snapshots)
    claims = tuple(claim for claim in experiment.claims if not {claim.better, claim.worse} & waiting.keys())
    baselines = tuple(name for name in experiment.baselines if name not in waiting)
    notes = experiment.notes
    if waiting:
        methods = ", ".join(dict.fromkeys(waiting.values()))
        notes += (f"{len(waiting)} searched rows are left out: {searched.name} has no {methods}. A search writes it.",)
    experiment = replace(experiment, rows=tuple(rows), claims=claims, baselines=baselines, notes=notes)
    if problem := next(_problems(experiment), None):
        raise InputError(f"experiment '{name}': {problem}")
    return experiment


def _at_steps(row: RowSpec, steps: Sequence[int]) -> list[RowSpec]:
    """Return a row for each step whose words it draws; the row itself without steps, and for a bound, which is not
    trained."""
    if row.bound is not None or not steps:
        return [row]
    return [replace(row, name=f"{row.name}_{k}", label=f"{row.label}, step {k}", snapshot=k) for k in steps]


def _explain(error: ErrorDetails, content: Any) -> str:
    """Return where an error of pydantic is, the value there and what is needed instead."""
    place, where = list(error["loc"]), ""
    if place[:1] == ["rows"] and len(place) > 2:  # the name says more than the number
        where, place = f", row '{content['rows'][place[1]].get('name', place[1])}'", place[2:]
    given = "" if error["type"] == "missing" else f" is {str(error['input'])[:80]}"
    needed = reduce(lambda text, pair: text.replace(*pair), PLAIN.items(), error["msg"])
    return f"{where}: {'.'.join(map(str, place))}{given}: {needed}"


def _overrides(chosen: Mapping[str, Any], method: str, searched: Path) -> Texts:
    row = check_value(chosen[method], dict[str, Any], f"{searched}: {method}")
    return check_value(row.get("overrides"), Texts, f"{searched}: {method}.overrides")


def _problems(experiment: Experiment) -> Iterator[str]:
    """Yield what is missing or breaks a rule between keys."""
    lists = {"rows": experiment.rows, "text": experiment.text}
    lists |= {f"claims.{number}.metrics": claim.metrics for number, claim in enumerate(experiment.claims)}
    yield from (f"{key} is []: it must not be empty" for key, values in lists.items() if not values)
    rows = [row.name for row in experiment.rows]
    for number, row in enumerate(experiment.rows):
        if row.name in rows[:number]:
            yield f"two rows are called '{row.name}'"
        if row.kappa and row.kappa.of not in rows[:number]:
            yield f"row '{row.name}' takes kappa of '{row.kappa.of}', which is no row above it"
    shown = {"rows": [row.label for row in experiment.rows], "metrics": list(experiment.metrics.values())}
    for kind, titles in shown.items():
        if twice := [title for title, count in Counter(titles).items() if count > 1]:
            yield f"two {kind} are shown as '{twice[0]}': give each its own"
    for metric in (experiment.image, *experiment.text, *(metric for c in experiment.claims for metric in c.metrics)):
        if metric not in experiment.metrics:
            yield f"metric '{metric}' of image, text or a claim is not among its metrics"
    for row in (*experiment.baselines, *(row for c in experiment.claims for row in (c.better, c.worse))):
        if row not in rows:
            yield f"'{row}' of baselines or a claim is no row"
    if experiment.paths and experiment.snapshots:
        yield "paths lie between finished words: leave out paths or snapshots"
    learned = [row.name for row in experiment.rows if row.bound is None]
    for way in experiment.paths.ways if experiment.paths else ():
        if way.row not in learned:
            yield f"'{way.row}' of paths is no row with learned words"
    if len(set(experiment.training_seeds)) < len(experiment.training_seeds):
        yield f"training_seeds has a seed twice: {list(experiment.training_seeds)}"
    if experiment.search:  # fair only if every method gets as many settings, whatever its number of keys
        if missing := sorted({*get_args(Bound)} - {row.bound for row in experiment.rows}):
            yield f"a search needs a row with bound {missing[0]}, as scores are scaled between bounds"
        counts = Counter(row.method for row in experiment.rows if row.bound is None)
        if None in counts:
            yield "every row of a search says its method"
        elif len(set(counts.values())) > 1:
            listed = ", ".join(f"{method} {count}" for method, count in counts.items())
            yield f"every method must have the same number of rows, there are {listed}"
