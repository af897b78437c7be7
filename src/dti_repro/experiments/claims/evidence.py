"""The numbers behind a part of a claim: differences by unit, from the CSVs of results."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dti_repro.artifacts.files import read_json
from dti_repro.errors import InputError
from dti_repro.experiments.claims.rules import Filter, Part

Unit = tuple[str, ...]
Line = dict[str, str]


@dataclass(frozen=True)
class Evidence:
    """more - times less by unit; no units, and a reason, where it was not measured. seeds: training seeds that it rests
    on; None where no training is behind it. folders: the results that were read."""

    differences: Mapping[Unit, float]
    seeds: tuple[int, ...] | None = None
    folders: tuple[Path, ...] = ()
    reason: str = ""


def read_evidence(part: Part, root: Path) -> Evidence:
    """Return the evidence of a part. root: the folder of all results. InputError for a damaged file."""
    found = [Result(root / name) for name in part.results]
    found = [result for result in found if (result.folder / part.file).is_file()]
    if not found:
        return Evidence({}, reason=f"no {part.file} in {', '.join(part.results)}")
    folders = tuple(result.folder for result in found)
    if reason := _unlike(found, {side["row"] for side in (part.more, part.less) if "row" in side}):
        return Evidence({}, folders=folders, reason=reason)
    seeds = [seed for result in found for seed in result.seeds]
    by_result = [(max(1, len(result.seeds)), _differences(part, result)) for result in found]
    units = [unit for unit in by_result[0][1] if all(unit in differences for _, differences in by_result)]
    total = sum(weight for weight, _ in by_result)
    mean = {unit: sum(weight * d[unit] for weight, d in by_result) / total for unit in units}
    if not mean:
        return Evidence({}, folders=folders, reason=f"no unit has both sides in {part.file}")
    return Evidence(_by_subject(mean) if len(part.unit) > 1 else mean, tuple(seeds) if part.trained else None, folders)


class Result:
    """A folder of results, with what its provenance.json says; a study has none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "provenance.json"
        about = read_json(file, "make this result again") if file.is_file() else {}
        self.experiment: Mapping[str, Any] = about.get("experiment", {})
        runs = about.get("runs", {})  # row -> seed folders, in old results a single one
        self.runs = {row: [paths] if isinstance(paths, str) else paths for row, paths in runs.items()}

    @property
    def seeds(self) -> list[int]:
        """Return the training seeds of its rows."""
        named = (re.search(r"seed[_=](\d+)$", path) for paths in self.runs.values() for path in paths)
        return sorted({int(match[1]) for match in named if match})

    def trainings(self, row: str) -> set[str]:
        """Return the folder of the configuration, whose name covers weights and settings, of a row."""
        return {str(Path(path).parent) for path in self.runs.get(row, ())}

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

    def lines(self, name: str) -> Iterator[Line]:
        path = self.folder / name
        try:
            with path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path} cannot be read ({error}): make this result again") from error


def _unlike(results: Sequence[Result], rows: set[str]) -> str:
    """Return why the results cannot be averaged, "" if they can: their rows must be trainings of one configuration on
    one set of weights, at different seeds."""
    names = " and ".join(result.folder.name for result in results)
    for row in sorted(rows):
        if len({frozenset(result.trainings(row)) for result in results}) > 1:
            return f"{names} have different trainings of {row}"
    seeds = [seed for result in results for seed in result.seeds]
    return f"{names} share a training seed" if len(set(seeds)) < len(seeds) else ""


def _differences(part: Part, result: Result) -> dict[Unit, float]:
    """Return unit -> mean over the lines of `more`, minus `times` that over the lines of `less`."""
    more, less = ({**side, **_named(result, side)} for side in (part.more, part.less))
    values: list[dict[Unit, list[float]]] = [defaultdict(list), defaultdict(list)]
    for line in result.lines(part.file):
        try:
            if any(line[column] == value for column, value in part.without.items()):
                continue
            for side, found in zip((more, less), values, strict=True):
                if all(line[column] == value for column, value in side.items()):
                    number = float(line[part.value] in part.among) if part.among else float(line[part.value] or "nan")
                    found[tuple(line[column] for column in part.unit)].append(number)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{result.folder / part.file} has no usable column {error}: make it again") from error
    means = [{unit: fmean(numbers) for unit, numbers in found.items()} for found in values]
    both = {unit: means[0][unit] - part.times * means[1][unit] for unit in means[0] if unit in means[1]}
    return {unit: value for unit, value in both.items() if value == value}  # an empty cell was not measured


def _named(result: Result, side: Filter) -> dict[str, str]:
    return {"metric": result.metric(side["metric"])} if "metric" in side else {}


def _by_subject(pairs: Mapping[Unit, float]) -> dict[Unit, float]:
    """Return subject -> jackknife value (Tukey 1958; of a mean over pairs, Arvesen 1969).

    Pairs that share a subject are not independent. n m - (n - 1) m_i is, of n subjects, with m the mean over all pairs
    and m_i that over the pairs without subject i. Its mean over subjects is m where all pairs are there.
    """
    subjects = sorted({name for pair in pairs for name in pair})
    n, mean = len(subjects), fmean(pairs.values())
    without = {name: [value for pair, value in pairs.items() if name not in pair] for name in subjects}
    if not all(without.values()):
        return dict(pairs)  # a single pair
    return {(name,): n * mean - (n - 1) * fmean(values) for name, values in without.items()}
