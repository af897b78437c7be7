"""What a learned row's folders say besides scores: norms, gradients, minutes. Imports no torch."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.run_dir import ConceptFolder, embedding_files
from dti_repro.errors import InputError


def final_norm(folders: Sequence[ConceptFolder]) -> float:
    """Mean over concepts of the mean norm of their learned vectors, in the text encoder's own units."""
    return statistics.fmean(_norm(folder.embedding) for folder in folders)


def gradient_norm(folders: Sequence[ConceptFolder]) -> float | None:
    """Mean over concepts of the median over steps of the gradient's norm; None for a row without a training.

    The gradient is with respect to what the optimizer steps (for DTI the unit direction), the prior included.
    """
    logs = [folder.log for folder in folders if folder.log.is_file()]
    return statistics.fmean(map(_median_gradient, logs)) if len(logs) == len(folders) else None


def minutes_per_concept(folders: Sequence[ConceptFolder]) -> float | None:
    """Mean over concepts of their training's wall time over the number of concepts that shared it, whether or not they
    are among these.

    A row that only transforms another's vectors took that one's time. None where a provenance file is missing.
    """
    packs: dict[Path, Counter[tuple[str, str]]] = {}
    shares = []
    for folder in folders:
        record = _provenance(folder)
        if record is not None and "source" in record:
            folder = ConceptFolder(Path(record["source"]))
            record = _provenance(folder)
        if record is None:
            return None
        if folder.seed_folder not in packs:
            beside = map(_provenance, map(ConceptFolder, folder.seed_folder.iterdir()))
            packs[folder.seed_folder] = Counter(map(_training, filter(None, beside)))
        shares.append(record["seconds"] / 60 / packs[folder.seed_folder][_training(record)])
    return statistics.fmean(shares)


def machines(folders: Sequence[ConceptFolder], scores: Sequence[Path]) -> list[str]:
    """Where the trainings and the scores (their .json) were computed: "host: device", each once."""
    records = [record for record in map(_provenance, folders) if record is not None]
    for path in scores:
        records += read_json(path, "remove it to score again")["metrics"].values()
    return sorted({f"{record['host']}: {record['device']}" for record in records})


def _norm(path: Path) -> float:
    """Mean over the vectors of all text encoders."""
    rows = [vectors for file in embedding_files(path).values() for vectors in load_file(file).values()]
    return float(np.concatenate([np.linalg.norm(v.astype(np.float64), axis=-1) for v in rows]).mean())


def _median_gradient(log: Path) -> float:
    with log.open(newline="") as file:
        try:
            return statistics.median(float(row["grad_norm"]) for row in csv.DictReader(file))
        except (KeyError, TypeError, ValueError, statistics.StatisticsError) as error:
            raise InputError(f"{log} has no usable column grad_norm; train this concept again") from error


def _training(record: dict) -> tuple[str, str]:
    """What the concepts of one pack have in common."""
    return record["host"], record["began"]


def _provenance(folder: ConceptFolder) -> dict | None:
    advice = "remove it; only its times are lost"
    return read_json(folder.provenance, advice) if folder.provenance.is_file() else None
