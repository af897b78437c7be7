"""Where, when and with what something was computed; apart from results, so that equal results are equal bytes."""

from __future__ import annotations

import os
import platform
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dti_repro.artifacts.files import read_json
from dti_repro.artifacts.run_dir import ConceptFolder

SOURCE_DIGEST = "source_sha256"
"""The key of the digest of the embedding that a derived word was made from."""
PACKAGES = ("torch", "diffusers", "transformers", "pytorch-lightning", "peft", "timm", "open_clip_torch", "dti-repro")


def provenance(began: float, device: str) -> dict[str, Any]:
    """Return the record of a computation that ends now.

    began: time.time() at the start (seconds); device: `cpu` or `cuda`. Times are UTC, `seconds` is wall clock.
    """
    import torch

    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(max(0.0, time.time() - began), 3),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def minutes_per_concept(folders: Sequence[ConceptFolder]) -> float | None:
    """Return the mean over concepts of their training's wall time, divided by the number of concepts in its pack.

    Vectors that were only derived from another run's took that run's time. None where a provenance file is missing, or
    says that the training was resumed: it then has the time of the last process only.
    """
    packs: dict[Path, Counter[tuple[str, str]]] = {}  # seed folder -> training -> number of its concepts
    minutes = []
    for folder in folders:
        record = read_provenance(folder)
        if record is not None and "source" in record:
            folder = ConceptFolder(Path(record["source"]))
            record = read_provenance(folder)
        if record is None or record.get("resumed_from_step"):
            return None
        if folder.seed_folder not in packs:
            records = map(read_provenance, map(ConceptFolder, folder.seed_folder.iterdir()))
            packs[folder.seed_folder] = Counter((r["host"], r["began"]) for r in records if r is not None)
        minutes.append(record["seconds"] / 60 / packs[folder.seed_folder][record["host"], record["began"]])
    return statistics.fmean(minutes)


def machines(folders: Sequence[ConceptFolder], scores: Sequence[Path]) -> list[str]:
    """Return where the concepts were trained and the scores (their .json) were computed: "host: device", each once."""
    records = [record for record in map(read_provenance, folders) if record is not None]
    for path in scores:
        records += read_json(path, "remove it to score again")["metrics"].values()
    return sorted({f"{record['host']}: {record['device']}" for record in records})


def read_provenance(folder: ConceptFolder) -> dict[str, Any] | None:
    """Return the record of a concept's training, None if there is none. InputError for a damaged one."""
    advice = "remove it; its times are lost, and what a derived word was made from"
    return read_json(folder.provenance, advice) if folder.provenance.is_file() else None
