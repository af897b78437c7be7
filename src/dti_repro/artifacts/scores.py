"""Score rows, one per image (or set of images) and metric, as CSV, and their means per subject. Imports no torch."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from dti_repro.artifacts.files import atomic_write
from dti_repro.errors import InputError

MAX_BYTES = 256 << 20  # a million rows
Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ScoreRow:
    """The value that one metric gives one image, or all images of a concept: these rows have no file and no prompt.

    The types are checked, as a score file may come from elsewhere.
    """

    file: str
    template: str  # the prompt with {}
    text: str  # the prompt with the class word
    seed: int
    concept: Name
    metric: Name
    value: FiniteFloat
    masked: bool = False  # whether the references were black outside of their masks


COLUMNS = [field.name for field in fields(ScoreRow)]


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write one line per row. Values are written with repr, so that reading gives the same float."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "value": repr(row.value), "masked": int(row.masked)} for row in rows)


def read_scores(path: Path) -> list[ScoreRow]:
    """Return the rows. Raise InputError if the file is not one that write_scores wrote."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: evaluate first")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB: it is not a score file")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            if reader.fieldnames == COLUMNS:
                masked = {"0": False, "1": True}
                return [ScoreRow(**{**row, "masked": masked[row["masked"]]}) for row in reader]
        except (TypeError, ValueError, KeyError, csv.Error) as error:
            raise InputError(f"{path}: line {reader.line_num} is damaged; delete the file to score again") from error
    raise InputError(f"{path}: not a score file (columns {', '.join(COLUMNS)}); delete it to score again")


def subject_means(rows: Iterable[ScoreRow]) -> dict[str, dict[str, float]]:
    """Return metric -> subject -> mean over that subject's values (every image counts once)."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row.metric][row.concept].append(row.value)
    return {m: {c: sum(v) / len(v) for c, v in by_concept.items()} for m, by_concept in values.items()}
