"""The criterion of a search: the geometric mean of image and text score, each scaled between the bounds.

It was fixed before anything was run. That only validation subjects and prompts are searched is up to the experiment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import yaml

from dti_repro.artifacts.files import read_yaml, write_file
from dti_repro.errors import InputError
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.experiments.stages import RowResult, means_of, mismatched_files
from dti_repro.experiments.training_columns import number

if TYPE_CHECKING:
    from dti_repro.experiments.tables import SubjectMeans

COLUMNS = ("scaled image", "scaled text", "criterion")
HEADER = """# Written by `python -m dti_repro.benchmark experiment=search` and other searches, each its own methods.
# Searched rows read it.
"""


def scaled(value: float, low: float, high: float) -> float:
    """Return where the value lies between low (0) and high (1), clipped; 0 unless high is above low."""
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0


def quality(
    image: str, text: Sequence[str], scores: SubjectMeans, bounds: Mapping[str, SubjectMeans]
) -> dict[str, float]:
    """Return the scaled image score, the mean of the scaled text scores, and the criterion, of means over subjects.

    bounds: the scores of class, description, references and mismatched. Image: 0 is the class word, 1 the subject's
    photos compared with each other. Text: 0 is an image scored with another prompt's text (an image that ignores its
    prompt), 1 the model given the subject's full description. The class word is no lower bound for text: there it is
    nearly the best that the model can do. A subject counts where it has a value on all three sides. InputError for a
    metric without such a subject.
    """

    def between(metric: str, low: str, high: str) -> float:
        sides = [of.get(metric, {}) for of in (scores, bounds[low], bounds[high])]
        shared = [name for name in sides[0] if all(name in side for side in sides)]
        if not shared:
            raise InputError(
                f"search: no subject has a value of {metric} in a row and in {low} and {high}, between which it is "
                "scaled: choose other prompts, or another metric"
            )
        return scaled(*(fmean(side[name] for name in shared) for side in sides))

    image_score = between(image, "class", "references")
    text_score = sum(between(metric, "mismatched", "description") for metric in text) / len(text)
    return {"image": image_score, "text": text_score, "criterion": math.sqrt(image_score * text_score)}


def search(experiment: Experiment, results: Sequence[RowResult], path: Path | None) -> dict[str, dict[str, str]]:
    """Return the cells of COLUMNS for each row that is no bound, and write each method's best row to a yaml if `path`
    names one."""
    metrics = experiment.metrics
    bounds = {result.spec.bound: result.means(metrics) for result in results if result.spec.bound is not None}
    bounds["mismatched"] = means_of(mismatched_files(results), metrics)
    settings = [result for result in results if result.spec.bound is None]
    found = {r.spec.name: quality(experiment.image, experiment.text, r.means(metrics), bounds) for r in settings}
    best = best_rows([result.spec for result in settings], found)
    cells = {name: dict(zip(COLUMNS, map(number, scores.values()), strict=True)) for name, scores in found.items()}
    for row in best.values():
        cells[row.name]["criterion"] += " (chosen)"
    if path is not None:
        write_searched(path, best, found)
        for method, row in best.items():
            print(f"searched {method}: {row.name}, written to {path}")
    return cells


def best_rows(rows: Sequence[RowSpec], found: Mapping[str, Mapping[str, float]]) -> dict[str, RowSpec]:
    """Return method -> its row with the highest criterion; in a tie, the row that is listed first. found: row name ->
    what `quality` returns."""
    methods = dict.fromkeys(row.method for row in rows)

    def criterion(row: RowSpec) -> float:
        return found[row.name]["criterion"]

    return {method: max((row for row in rows if row.method == method), key=criterion) for method in methods}


def write_searched(path: Path, best: Mapping[str, RowSpec], found: Mapping[str, Mapping[str, float]]) -> None:
    """Write what `best_rows` returns, with the overrides and the scores of each row, beside what other searches wrote
    of other methods."""
    before = read_yaml(path) if path.is_file() else {}
    content = before | {
        method: {
            "row": row.name,
            "overrides": list(row.overrides),
            **{key: round(found[row.name][key], 4) for key in ("criterion", "image", "text")},
        }
        for method, row in best.items()
    }
    write_file(path, HEADER + yaml.safe_dump(content, sort_keys=False))
