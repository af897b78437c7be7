"""The numbers behind a part of a claim: differences by unit, from the CSVs of results."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series, concat, read_csv

from dti_repro.artifacts.files import read_json, sha256
from dti_repro.errors import InputError
from dti_repro.experiments.claims.rules import Filter, Part


@dataclass(frozen=True)
class Evidence:
    """The numbers of a part. differences: unit -> more - times * less; empty, with a reason, where it was not measured.
    seeds: the training seeds behind them; None where nothing was trained. folders: the results that were read."""

    differences: Series = field(default_factory=lambda: Series(dtype=float))
    seeds: tuple[int, ...] | None = None
    folders: tuple[Path, ...] = ()
    reason: str = ""


def read_evidence(part: Part, root: Path) -> Evidence:
    """Return the evidence of a part. root: the folder of all results. InputError for a damaged file."""
    found = [Result(root / name) for name in part.results if (root / name / part.file).is_file()]
    if not found:
        return Evidence(reason=f"no {part.file} in {', '.join(part.results)}")
    folders = tuple(result.folder for result in found)
    rows = {side["row"] for side in (part.more, part.less) if "row" in side}
    if reason := _why_not_averaged(found, rows):
        return Evidence(folders=folders, reason=reason)
    by_result = concat([_differences(part, result) for result in found], axis=1, join="inner")
    if by_result.empty:
        return Evidence(folders=folders, reason=f"no unit has both sides in {part.file}")
    seeds = [result.seeds(rows) for result in found]
    weights = [max(1, len(of)) for of in seeds]
    mean = by_result.mul(weights).sum(axis=1) / sum(weights)
    units = _by_subject(mean) if len(part.unit) > 1 else mean
    if units.hasnans:
        return Evidence(folders=folders, reason="a subject is in all pairs")
    return Evidence(units, tuple(seed for of in seeds for seed in of) if part.trained else None, folders)


class Result:
    """A folder of results, with what its provenance.json says; a study has none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "provenance.json"
        about = read_json(file, "make this result again") if file.is_file() else {}
        scores = folder / "scores.csv"
        if "scores_sha256" in about and scores.is_file() and sha256(scores) != about["scores_sha256"]:
            raise InputError(f"{file} is about other scores than scores.csv: make this result again with `benchmark`")
        self.experiment: Mapping[str, Any] = about.get("experiment", {})
        self.runs: Mapping[str, Sequence[str]] = about.get("runs", {})  # row -> seed folders
        if any(isinstance(paths, str) for paths in self.runs.values()):
            raise InputError(f"{file} has one folder for each row, as old results do: make this result again")

    def seeds(self, rows: Collection[str]) -> list[int]:
        """Return the training seeds that all of these rows have; without a trained row, those of the whole result."""
        asked = [self.runs[row] for row in rows if row in self.runs]
        found = [
            {int(match[1]) for path in paths if (match := re.search(r"seed_(\d+)$", path))}
            for paths in asked or self.runs.values()
        ]
        return sorted((set.intersection if asked else set.union)(*found)) if found else []

    def metric(self, name: str) -> str:
        """Return the metric that `image` or `text` stands for, any other as it is."""
        if name not in ("image", "text"):
            return name
        metric = self.experiment.get(name)
        if not metric:
            raise InputError(
                f"{self.folder / 'provenance.json'} does not name its {name} score: make this result again"
            )
        return metric if isinstance(metric, str) else metric[0]


def _why_not_averaged(results: Sequence[Result], rows: Collection[str]) -> str:
    """Return why the results cannot be averaged, "" if they can: their rows must be trainings of one configuration on
    one set of weights, at different seeds."""
    names = " and ".join(result.folder.name for result in results)
    for row in sorted(rows):
        # The name of a configuration's folder covers weights and settings.
        trainings = {frozenset(str(Path(path).parent) for path in result.runs.get(row, ())) for result in results}
        if len(trainings) > 1:
            return f"{names} have different trainings of {row}"
    seeds = [seed for result in results for seed in result.seeds(rows)]
    return f"{names} share a training seed" if len(set(seeds)) < len(seeds) else ""


def _differences(part: Part, result: Result) -> Series:
    """Return the mean over the lines of `more` of each unit, minus `times` that over the lines of `less`."""
    file = result.folder / part.file
    sides = [
        {column: result.metric(value) if column == "metric" else value for column, value in side.items()}
        for side in (part.more, part.less)
    ]
    try:
        table = read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): make this result again") from error
    try:
        for column, value in part.without.items():
            table = table[table[column] != value]
        numbers = table[part.value].map(lambda text: float(text in part.among if part.among else text or "nan"))
        table = table.assign(number=numbers)
        more, less = (_lines(table, side).groupby(list(part.unit), sort=False)["number"].mean() for side in sides)
    except (KeyError, ValueError) as error:
        raise InputError(f"{file} has no usable column {error}: make it again") from error
    return (more - part.times * less).dropna()  # an empty cell was not measured


def _lines(table: DataFrame, wanted: Filter) -> DataFrame:
    """Return the lines that have these values."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def _by_subject(pairs: Series) -> Series:
    """Return subject -> jackknife value (Tukey 1958; of a mean over pairs, Arvesen 1969).

    Pairs that share a subject are not independent. n m - (n - 1) m_i is, of n subjects, with m the mean over all pairs
    and m_i that over the pairs without subject i. Its mean over subjects is m where all pairs are there. NaN for a
    subject that is in all pairs.
    """
    a, b = (pairs.index.get_level_values(level) for level in (0, 1))
    subjects = sorted({*a, *b})
    means = {name: pairs[(a != name) & (b != name)].mean() for name in subjects}
    return len(subjects) * pairs.mean() - (len(subjects) - 1) * Series(means)
