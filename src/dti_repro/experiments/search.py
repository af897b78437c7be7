"""The search criterion: geometric mean of image and text score, each scaled between the bounds rows.

Fixed before anything is run. Only validation subjects and prompts may come in; that is the experiment's
business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dti_repro.artifacts.files import atomic_write
from dti_repro.experiments.spec import RowSpec
from dti_repro.experiments.tables import SubjectMeans

HEADER = """# Written by `python -m dti_repro.benchmark experiment=search`.
# The searched rows of the main table read it.
"""


@dataclass(frozen=True)
class Scale:
    """The scores that count as 0 and as 1 on one metric."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Clipped to [0, 1]; a scale without length says nothing and gives 0."""
        if not self.high > self.low:
            return 0.0
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Quality:
    """Scaled image and text score of a row, and their geometric mean."""

    image: float
    text: float

    @property
    def criterion(self) -> float:
        return math.sqrt(self.image * self.text)


def scales(
    image: str,
    text: Sequence[str],
    class_word: SubjectMeans,
    description: SubjectMeans,
    references: SubjectMeans,
    mismatched: SubjectMeans,
) -> dict[str, Scale]:
    """Image: 0 is the class word, 1 the subject's own photos against each other. Text: 0 is an image scored
    with another prompt's text (a picture that ignores its prompt), 1 the model given the subject's full
    description.

    The class word is no lower end for text: there it is nearly the best that the model can do.
    """
    found = {image: Scale(_mean(class_word[image]), _mean(references[image]))}
    return found | {m: Scale(_mean(mismatched[m]), _mean(description[m])) for m in text}


def quality(image: str, text: Sequence[str], scores: SubjectMeans, scale: Mapping[str, Scale]) -> Quality:
    """Means over subjects, scaled; the text score is the mean of the scaled text metrics."""
    texts = [scale[m](_mean(scores[m])) for m in text]
    return Quality(scale[image](_mean(scores[image])), sum(texts) / len(texts))


def write_searched(path: Path, rows: Sequence[RowSpec], found: Mapping[str, Quality]) -> dict[str, str]:
    """Write each method's best row; returns method -> row name. A tie goes to the row that is listed
    first."""
    best: dict[str, RowSpec] = {}
    for row in rows:
        current = best.get(row.method)
        if current is None or found[row.name].criterion > found[current.name].criterion:
            best[row.method] = row
    content = {
        method: {
            "row": row.name,
            "overrides": list(row.overrides),
            "criterion": round(found[row.name].criterion, 4),
            "image": round(found[row.name].image, 4),
            "text": round(found[row.name].text, 4),
        }
        for method, row in best.items()
    }
    with atomic_write(path) as temporary:
        temporary.write_text(HEADER + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return {method: row.name for method, row in best.items()}


def _mean(by_subject: Mapping[str, float]) -> float:
    return sum(by_subject.values()) / len(by_subject)
