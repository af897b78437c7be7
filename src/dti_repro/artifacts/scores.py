"""Score rows: one per image and metric, as CSV, and their means per subject. Imports no torch."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dti_repro.artifacts.files import atomic_write
from dti_repro.errors import InputError


@dataclass(frozen=True)
class ScoreRow:
    """The value that one metric gives one image. ``text`` is the prompt with the class word, ``template``
    with {}. ``masked``: the references that it was compared with were black outside of their masks."""

    file: str
    template: str
    text: str
    seed: int
    concept: str
    metric: str
    value: float
    masked: bool = False


MAX_BYTES = 256 << 20  # a million rows
COLUMNS = [field.name for field in fields(ScoreRow)]


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """One line per row; values are written with repr, so that reading gives the same float."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "value": repr(row.value), "masked": int(row.masked)} for row in rows)


def read_scores(path: Path) -> list[ScoreRow]:
    """Raises InputError where the file is not one that write_scores wrote."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: evaluate first")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB: it is no score file of ours")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            if reader.fieldnames != COLUMNS:
                columns = ", ".join(COLUMNS)
                raise InputError(f"{path}: not a score file (columns {columns}); delete it to score again")
            return [_row(row) for row in reader]
        except (TypeError, ValueError, csv.Error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: line {reader.line_num} is damaged; delete the file to score again") from error


def _row(fields: dict[str, str]) -> ScoreRow:
    """TypeError or ValueError for a row that write_scores does not write, such as one cut short."""
    if None in fields or None in fields.values():
        raise ValueError("too many or too few fields")
    if not (fields["concept"] and fields["metric"]):
        raise ValueError("a score is of a concept and by a metric")
    if fields["masked"] not in ("0", "1"):
        raise ValueError("masked is 0 or 1")
    typed = {"seed": int(fields["seed"]), "value": float(fields["value"]), "masked": fields["masked"] == "1"}
    row = ScoreRow(**{**fields, **typed})
    if not math.isfinite(row.value):
        raise ValueError("a score is a number")
    return row


def subject_means(rows: Iterable[ScoreRow]) -> dict[str, dict[str, float]]:
    """metric -> subject -> mean over that subject's images (every image counts once)."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row.metric][row.concept].append(row.value)
    return {m: {c: sum(v) / len(v) for c, v in by_concept.items()} for m, by_concept in values.items()}
