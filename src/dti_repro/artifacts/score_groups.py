"""Which score files belong together: those of all concepts and training seeds of a run, in one generation.

Imports no torch and no pandas: a wrong folder is named within a second.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dti_repro.artifacts.manifest import NAME, Manifest
from dti_repro.artifacts.run_dir import check_name
from dti_repro.errors import InputError

LEVELS = ("", "*/", "seed_*/*/")  # of a concept, of a seed (or of plain words), of a configuration


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
