"""Score files on disk: which images belong to one, which of its metrics are missing, and computing those.

Imports no torch until a value is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import read_json, sha256, write_json
from dti_repro.artifacts.lock import BusyError, locked
from dti_repro.artifacts.manifest import Manifest
from dti_repro.artifacts.provenance import provenance
from dti_repro.artifacts.scores import COLUMNS, ScoreRow, read_scores, write_scores
from dti_repro.config import build
from dti_repro.data.concept import Concept
from dti_repro.data.masks import check_masks, mask_path, masked_photo
from dti_repro.data.photos import load_photo
from dti_repro.errors import InputError
from dti_repro.launch.devices import run_on_devices
from dti_repro.metrics.catalogue import metric_identity

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from dti_repro.metrics.base import ImageMetric

_BATCH = 64  # images held in memory at once
Configs = Mapping[str, Mapping[str, Any]]  # metric name -> its yaml


@dataclass(frozen=True)
class Item:
    """One image to score, what it should show, and the photos that it is compared with."""

    path: Path
    template: str
    text: str
    seed: int
    concept: str
    expect: tuple[tuple[str, str], ...]
    references: tuple[Path, ...]


@dataclass(frozen=True)
class ScoreFile:
    """The score rows of ``items`` lie in ``csv``; what they were computed with lies beside it, as json."""

    csv: Path
    items: tuple[Item, ...]

    @property
    def provenance(self) -> Path:
        return self.csv.with_suffix(".json")

    @property
    def lock(self) -> Path:
        return self.csv.with_suffix(".lock")

    def inputs(self, masks: Path | None) -> str:
        """Digest of everything a metric is given (images, texts, expectations, references, masks), and of the columns,
        so that rows of other columns are computed again."""
        digest = hashlib.sha256(json.dumps(COLUMNS).encode())
        for item in self.items:
            photos = [(p.name, _file_digest(p), _mask_digest(item, p, masks)) for p in item.references]
            row = [_file_digest(item.path), item.text, item.expect, item.concept, photos]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]

    def missing(self, configs: Configs, masks: Path | None = None) -> list[str]:
        """Names of the metrics whose values are not there, or belong to other images, texts or weights."""
        done = self._done()
        inputs = self.inputs(masks)
        wanted = {name: {"identity": metric_identity(config), "inputs": inputs} for name, config in configs.items()}
        return [name for name, key in wanted.items() if not key.items() <= done.get(name, {}).items()]

    def _done(self) -> dict[str, dict[str, Any]]:
        """What is known of each metric whose rows are in the csv; nothing if the two files do not belong together, as
        after a crash between them or a damage to one: all is then computed again."""
        if not (self.csv.is_file() and self.provenance.is_file()):
            return {}
        try:
            record = read_json(self.provenance, "scored again")
        except InputError:
            return {}
        metrics = record.get("metrics")
        whole = record.get("csv_sha256") == _file_digest(self.csv) and isinstance(metrics, dict)
        return metrics if whole and all(map(_is_record, metrics.values())) else {}


def generated(manifest: Path, concepts: Mapping[str, Concept]) -> ScoreFile:
    """The scores of one generation: ``<concept>/images/<id>/manifest.json`` to ``<concept>/scores/<id>.csv``.

    An image of several concepts is compared with the references of each, and has a row for each. InputError
    for a concept that ``concepts`` does not have.
    """
    folder = manifest.parent
    items = []
    for image in Manifest.read(manifest).images:
        for name in image.concepts:
            if name not in concepts:
                raise InputError(f"{manifest}: concept '{name}' is not in this concept set; choose another concepts=")
            items.append(
                Item(
                    path=folder / image.file,
                    template=image.template,
                    text=image.text,
                    seed=image.seed,
                    concept=name,
                    expect=tuple(sorted((image.expect or {}).items())),
                    references=concepts[name].images,
                )
            )
    return ScoreFile(folder.parents[1] / "scores" / f"{folder.name}.csv", tuple(items))


def mismatched(scores: ScoreFile) -> ScoreFile:
    """The same images, each with the text of the next template: what a picture that ignores its prompt
    scores."""
    templates = list(dict.fromkeys(item.template for item in scores.items))
    of_template = {item.template: item for item in scores.items}
    following = dict(zip(templates, [*templates[1:], templates[0]], strict=True))
    items = []
    for item in scores.items:
        other = of_template[following[item.template]]
        items.append(replace(item, text=other.text, template=other.template, expect=other.expect))
    return ScoreFile(scores.csv.with_name(f"{scores.csv.stem}.mismatched.csv"), tuple(items))


def real_references(concept: Concept, csv: Path) -> ScoreFile:
    """Each reference against the others: what an image score gives the subject itself. No text is scored, and nothing
    where there is no other photo."""
    items = [
        Item(
            path=photo,
            template="",
            text="",
            seed=0,
            concept=concept.name,
            expect=(),
            references=tuple(other for other in concept.images if other != photo),
        )
        for photo in concept.images
    ]
    return ScoreFile(csv, tuple(items))


def score(
    files: Sequence[ScoreFile],
    configs: Configs,
    masks: Path | None = None,
    accelerator: str = "auto",
    devices: int = 1,
) -> int:
    """Compute what is missing; returns how many (file, metric) pairs this call computed, 0 without importing torch.

    ``masks`` is a folder of masks of the references (see concepts.masks); with it, every reference needs one.
    InputError for masks that cannot be used, before a metric's weights are loaded; BusyError, when all others are
    computed, that names the files that another process is at.
    """
    if masks is not None:
        for concept, photos in dict.fromkeys((item.concept, item.references) for file in files for item in file.items):
            check_masks(masks, concept, photos)
    todo = {file: names for file in files if (names := file.missing(configs, masks))}
    needed = sorted({name for names in todo.values() for name in names})
    if not needed:
        return 0
    print(f"score: {len(todo)} score files, {', '.join(needed)}", flush=True)
    chosen = {name: configs[name] for name in needed}
    counts = get_context("spawn").SimpleQueue()  # from each process how many it computed
    run_on_devices(partial(_score_files, chosen, masks, accelerator, counts), list(todo), devices, accelerator)
    computed = 0
    while not counts.empty():
        computed += counts.get()
    if left := [file for file in todo if file.missing(configs, masks)]:
        raise BusyError(f"{computed} columns of scores are computed, {len(left)} score files are not: {_busy(left)}")
    return computed


def _busy(files: Sequence[ScoreFile]) -> str:
    owners = [file.lock.read_text(encoding="utf-8", errors="replace").strip() for file in files]
    return "; ".join(
        f"{file.csv} is being computed by {owner or 'another process'}"
        for file, owner in zip(files, owners, strict=True)
    )


def _score_files(
    configs: Configs, masks: Path | None, accelerator: str, counts: SimpleQueue, files: Sequence[ScoreFile]
) -> None:
    """Compute what is missing of these files, without those that another process is at."""
    from dti_repro.backbones.load import device_of
    from dti_repro.metrics.base import ImageMetric

    device = device_of(accelerator)
    metrics = {name: build(config, ImageMetric, f"metric {name}").to(device) for name, config in configs.items()}
    known: set[tuple[str, tuple[Path, ...]]] = set()
    computed = 0
    for file in files:
        with suppress(BusyError), locked(file.lock, f"{file.csv} is being computed"):
            names = file.missing(configs, masks)  # another process may have computed some meanwhile
            if names:
                _score_file(file, {name: metrics[name] for name in names}, configs, masks, known, device)
            computed += len(names)
    counts.put(computed)


def _score_file(
    file: ScoreFile,
    metrics: Mapping[str, ImageMetric],
    configs: Configs,
    masks: Path | None,
    known: set[tuple[str, tuple[Path, ...]]],
    device: str,
) -> None:
    start = time.time()
    for references in dict.fromkeys(item.references for item in file.items):
        new = [name for name in metrics if (name, references) not in known]
        if new:  # a concept's references are encoded once, however many runs are scored
            photos = _references(file, references, masks)
            for name in new:
                metrics[name].set_references(_key(references), photos)
                known.add((name, references))
    values = _values(file.items, metrics)
    inputs, done = file.inputs(masks), file._done()
    kept = {n: p for n, p in done.items() if n not in metrics and p["inputs"] == inputs}
    rows = [row for row in (read_scores(file.csv) if kept else []) if row.metric in kept]
    for name in metrics:
        masked = masks is not None and metrics[name].reads_references
        rows += [
            ScoreRow(i.path.name, i.template, i.text, i.seed, i.concept, name, value, masked)
            for i, value in zip(file.items, values[name], strict=True)
            if not math.isnan(value)
        ]
    write_scores(file.csv, sorted(rows, key=lambda row: row.metric))
    about = {**provenance(start, device), "inputs": inputs, "masks": str(masks) if masks else None}
    added = {n: {**about, "identity": metric_identity(configs[n]), "config": configs[n]} for n in metrics}
    write_json(file.provenance, {"csv_sha256": _file_digest(file.csv), "metrics": {**kept, **added}})


def _values(items: Sequence[Item], metrics: Mapping[str, ImageMetric]) -> dict[str, list[float]]:
    from dti_repro.metrics.base import Sample

    for begin in range(0, len(items), _BATCH):
        batch = items[begin : begin + _BATCH]
        images = [load_photo(item.path) for item in batch]
        samples = [Sample(_key(item.references), item.text, dict(item.expect)) for item in batch]
        for metric in metrics.values():
            metric.update(images, samples)
    values = {name: metric.compute().flatten().tolist() for name, metric in metrics.items()}
    for metric in metrics.values():
        metric.reset()
    return values


def _references(file: ScoreFile, references: Sequence[Path], masks: Path | None) -> list:
    if masks is None:
        return [load_photo(path) for path in references]
    concept = next(item.concept for item in file.items if item.references == references)
    return [masked_photo(masks, concept, path) for path in references]


def _is_record(value: Any) -> bool:
    """Whether this is what `_score_file` writes about a metric."""
    keys = ("inputs", "identity", "host", "device")
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)


def _mask_digest(item: Item, photo: Path, masks: Path | None) -> str | None:
    return None if masks is None else _file_digest(mask_path(masks, item.concept, photo))


def _key(references: Sequence[Path]) -> str:
    return "\n".join(map(str, references))


def _file_digest(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} does not exist: generate or fetch it again")
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@cache
def _digest(path: Path, modified_ns: int, size: int) -> str:
    return sha256(path)
