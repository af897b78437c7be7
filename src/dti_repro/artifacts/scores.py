"""Score files: rows, one per image (or set of images) and metric, as CSV, and which files belong together: those of all
concepts and training seeds of a run, in one generation.

Imports no torch and no pandas: a wrong folder is named within a second.
"""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from dti_repro.artifacts.files import atomic_write
from dti_repro.artifacts.manifest import NAME, Manifest
from dti_repro.artifacts.run_dir import check_name
from dti_repro.errors import InputError

LEVELS = ("", "*/", "seed_*/*/")  # of a concept, of a seed (or of plain words), of a configuration
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


@dataclass(frozen=True)
class ScoreGroup:
    """The score files of one row: of all concepts and training seeds of a run, in one generation."""

    label: str
    generation: str
    files: tuple[Path, ...]

    @property
    def prompts(self) -> str:
        """The name of the prompt set; "" where there is no manifest, as for photos."""
        manifest = self.files[0].parents[1] / "images" / self.generation / NAME
        return str(Manifest.read(manifest).generation.get("prompts", "")) if manifest.is_file() else ""

    @property
    def seeds(self) -> int:
        """The number of training seeds; 0 where nothing was trained."""
        return len({file.parents[2] for file in self.files if file.parents[2].name.startswith("seed_")})


def score_groups(runs: Sequence[Path], labels: Sequence[str] | None, generation: str | None) -> list[ScoreGroup]:
    """Return the rows of a table, run by run. InputError for a folder that does not exist or holds no scores."""
    if generation is not None:
        check_name(generation, "generation")
    groups = []
    for number, run in enumerate(runs):
        if not run.is_dir():
            raise InputError(f"runs: there is no folder {run}")
        absolute = Path(os.path.abspath(run))  # the names of the folders above it say what a file is of
        found = {path for level in LEVELS for path in absolute.glob(f"{level}scores/{generation or '*'}.csv")}
        files = sorted(path for path in found if not path.stem.endswith(".mismatched"))
        if not files:
            raise InputError(
                f"runs: {run} has no scores{f' of generation {generation}' if generation else ''}: evaluate it"
            )
        label = str(labels[number]) if labels else _label(run, files[0])
        for name in dict.fromkeys(file.stem for file in files):
            groups.append(ScoreGroup(label, name, tuple(file for file in files if file.stem == name)))
    return groups


def _label(run: Path, file: Path) -> str:
    """Return `<method> <hash>` for a score file of a trained concept, else the name of the run's folder."""
    seed = file.resolve().parents[2]
    return f"{seed.parents[1].name} {seed.parent.name}" if seed.name.startswith("seed_") else run.resolve().name
