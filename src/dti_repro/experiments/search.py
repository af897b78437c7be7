"""The criterion of a search: the geometric mean of image and text score, each scaled between the bounds.

It was fixed before anything was run. That only validation subjects and prompts are searched is up to the experiment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.runner import RowResult, means_of
from dti_repro.experiments.spec import Experiment, RowSpec
from dti_repro.experiments.training_columns import number
from dti_repro.metrics.evaluator import ScoreFile, mismatched

if TYPE_CHECKING:
    from dti_repro.experiments.tables import SubjectMeans

COLUMNS = ("scaled image", "scaled text", "criterion")
HEADER = """# Written by `python -m dti_repro.benchmark experiment=search`.
# The searched rows of the main table read it.
"""


@dataclass(frozen=True)
class Quality:
    """Scaled image and text score of a row, and their geometric mean."""

    image: float
    text: float

    @property
    def criterion(self) -> float:
        return math.sqrt(self.image * self.text)


def scaled(value: float, low: float, high: float) -> float:
    """Return where the value lies between low (0) and high (1), clipped; 0 unless high is above low."""
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0


def quality(image: str, text: Sequence[str], scores: SubjectMeans, bounds: Mapping[str, SubjectMeans]) -> Quality:
    """Return the means over subjects, scaled; the text score is the mean of the scaled text metrics.

    bounds: the scores of class, description, references and mismatched. Image: 0 is the class word, 1 the subject's
    photos compared with each other. Text: 0 is an image scored with another prompt's text (an image that ignores its
    prompt), 1 the model given the subject's full description. The class word is no lower bound for text: there it is
    nearly the best that the model can do.
    """

    def mean(of: SubjectMeans, metric: str) -> float:
        return sum(of[metric].values()) / len(of[metric])

    def between(metric: str, low: str, high: str) -> float:
        return scaled(mean(scores, metric), mean(bounds[low], metric), mean(bounds[high], metric))

    return Quality(
        between(image, "class", "references"),
        sum(between(metric, "mismatched", "description") for metric in text) / len(text),
    )


def mismatched_files(results: Sequence[RowResult]) -> list[ScoreFile]:
    """Return the score files of the class word's images with the texts of other prompts."""
    return [mismatched(file) for result in results if result.spec.bound == "class" for file in result.score_files]


def search(experiment: Experiment, results: Sequence[RowResult], path: Path) -> dict[str, dict[str, str]]:
    """Write each method's best row to a yaml, and return the cells of COLUMNS for each row that is no bound."""
    bounds = {r.spec.bound: means_of(r.score_files, experiment.metrics) for r in results if r.spec.bound is not None}
    bounds["mismatched"] = means_of(mismatched_files(results), experiment.metrics)
    settings = {result.spec.name: result for result in results if result.spec.bound is None}
    found = {
        name: quality(experiment.image, experiment.text, means_of(result.score_files, experiment.metrics), bounds)
        for name, result in settings.items()
    }
    chosen = write_searched(path, [result.spec for result in settings.values()], found)
    cells = {
        name: dict(zip(COLUMNS, map(number, (q.image, q.text, q.criterion)), strict=True)) for name, q in found.items()
    }
    for method, row in chosen.items():
        cells[row]["criterion"] += " (chosen)"
        print(f"searched {method}: {row}, written to {path}")
    return cells


def write_searched(path: Path, rows: Sequence[RowSpec], found: Mapping[str, Quality]) -> dict[str, str]:
    """Write each method's best row and return method -> row name. In a tie, the row that is listed first wins."""
    by_method: dict[str, list[RowSpec]] = defaultdict(list)
    for row in rows:
        by_method[row.method].append(row)
    best = {method: max(same, key=lambda row: found[row.name].criterion) for method, same in by_method.items()}
    content = {
        method: {
            "row": row.name,
            "overrides": list(row.overrides),
            **{key: round(getattr(found[row.name], key), 4) for key in ("criterion", "image", "text")},
        }
        for method, row in best.items()
    }
    with atomic_write(path) as temporary:
        temporary.write_text(HEADER + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return {method: row.name for method, row in best.items()}
