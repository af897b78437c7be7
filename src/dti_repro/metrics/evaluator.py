"""Score files: which images belong to one, which of its metrics are missing, and computing these.

Imports no torch until a value is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_repro.artifacts.files import read_json, refuse_links, sha256_once, write_json
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
from dti_repro.launch.garbage import collect_as_usual
from dti_repro.metrics.catalogue import metric_identity

if TYPE_CHECKING:
    from dti_repro.metrics.base import ScoreMetric

BATCH = 64  # images held in memory at once
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
    """The score rows of `items` lie in `csv`; what they were computed with lies in the json of the same name."""

    csv: Path
    items: tuple[Item, ...]

    @property
    def provenance(self) -> Path:
        return self.csv.with_suffix(".json")

    @property
    def lock(self) -> Path:
        return self.csv.with_suffix(".lock")

    def inputs(self, masks: Path | None, with_references: bool = True) -> str:
        """Return a digest of everything a metric is given (images, texts, expectations, and references with their masks
        if it reads them), and of the columns, so that rows of other columns are computed again."""
        digest = hashlib.sha256(json.dumps(COLUMNS).encode())
        for item in self.items:
            photos = [
                (p.name, _digest(p), None if masks is None else _digest(mask_path(masks, item.concept, p)))
                for p in (item.references if with_references else ())
            ]
            digest.update(json.dumps([_digest(item.path), item.text, item.expect, item.concept, photos]).encode())
        return digest.hexdigest()[:16]

    def missing(self, configs: Configs, masks: Path | None = None) -> list[str]:
        """Return the metrics whose values are not there, or belong to other images, texts or weights."""
        current = self.current(masks)
        return [name for name in configs if current.get(name, {}).get("identity") != metric_identity(configs[name])]

    def current(self, masks: Path | None) -> dict[str, dict[str, Any]]:
        """Return those of `records` that belong to these images, texts, references and masks."""
        records = self.records()
        reads = {name: record.get("reads_references", True) for name, record in records.items()}
        inputs = {with_references: self.inputs(masks, with_references) for with_references in set(reads.values())}
        return {name: record for name, record in records.items() if record["inputs"] == inputs[reads[name]]}

    def records(self) -> dict[str, dict[str, Any]]:
        """Return metric -> what its rows in the csv were computed with.

        Empty if the two files do not belong together, as after a crash between them or a damage to one: all is then
        computed again.
        """
        if not (self.csv.is_file() and self.provenance.is_file()):
            return {}
        try:
            content = read_json(self.provenance, "scored again")
        except InputError:
            return {}
        metrics, keys = content.get("metrics"), ("inputs", "identity", "host", "device")
        whole = (
            content.get("csv_sha256") == _digest(self.csv)
            and isinstance(metrics, dict)
            and all(isinstance(r, dict) and all(isinstance(r.get(key), str) for key in keys) for r in metrics.values())
        )
        return metrics if whole else {}


def generated(manifest: Path, concepts: Mapping[str, Concept]) -> ScoreFile:
    """Return the scores of one generation: of `<concept>/images/<id>/manifest.json` in `<concept>/scores/<id>.csv`.

    An image of several concepts is compared with the references of each, and has a row for each. InputError for a
    concept that `concepts` does not have.
    """
    folder = manifest.parent
    items = []
    for image in Manifest.read(manifest).images:
        for name in image.concepts:
            if name not in concepts:
                raise InputError(f"{manifest}: concept '{name}' is not in this concept set; choose another concepts=")
            expect = tuple(sorted((image.expect or {}).items()))
            references = concepts[name].images
            items.append(Item(folder / image.file, image.template, image.text, image.seed, name, expect, references))
    return ScoreFile(folder.parents[1] / "scores" / f"{folder.name}.csv", tuple(items))


def mismatched(scores: ScoreFile) -> ScoreFile:
    """Return the same images, each with the text of the next template: what an image that ignores its prompt scores."""
    of_template = {item.template: item for item in scores.items}
    templates = list(of_template)
    following = dict(zip(templates, [*templates[1:], templates[0]], strict=True))
    items = []
    for item in scores.items:
        other = of_template[following[item.template]]
        items.append(replace(item, text=other.text, template=other.template, expect=other.expect))
    return ScoreFile(scores.csv.with_name(f"{scores.csv.stem}.mismatched.csv"), tuple(items))


def real_references(concept: Concept, csv: Path) -> ScoreFile:
    """Return each reference against the others: what an image score gives the subject itself. No text is scored, and
    nothing where there is no other photo."""
    items = []
    for photo in concept.images:
        others = tuple(other for other in concept.images if other != photo)
        items.append(Item(photo, "", "", 0, concept.name, (), others))
    return ScoreFile(csv, tuple(items))


def score(
    files: Sequence[ScoreFile],
    configs: Configs,
    masks: Path | None = None,
    accelerator: str = "auto",
    devices: int = 1,
) -> int:
    """Compute what is missing; return how many (file, metric) pairs were computed, 0 without importing torch.

    `masks` is a folder of masks of the references (see data.masks); with it, every reference needs one. InputError for
    masks that cannot be used, before a metric's weights are loaded; BusyError, when all others are computed, that names
    the files that another process computes.
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
    work = partial(_score_files, chosen, masks, accelerator)
    computed = sum(run_on_devices(work, list(todo), devices, accelerator))
    busy = []
    for file in todo:
        if file.missing(configs, masks):
            owner = file.lock.read_text(encoding="utf-8", errors="replace").strip()
            changed = "its images or photos changed while they were scored: give the same command again"
            busy.append(f"{file.csv} is being computed by {owner}" if owner else f"{file.csv}: {changed}")
    if busy:
        line = f"{computed} columns of scores are computed, {len(busy)} score files are not"
        raise BusyError(f"{line}: {'; '.join(busy)}")
    return computed


def _score_files(configs: Configs, masks: Path | None, accelerator: str, files: Sequence[ScoreFile]) -> int:
    """Compute what is missing of these files, without those that another process has; return how many columns."""
    from dti_repro.backbones.load import device_of
    from dti_repro.metrics.base import ScoreMetric

    device = device_of(accelerator)
    metrics = {name: build(config, ScoreMetric, f"metric {name}").to(device) for name, config in configs.items()}
    collect_as_usual()
    for expect in {item.expect for file in files for item in file.items}:
        for metric in metrics.values():
            metric.check(dict(expect))
    computed = 0
    for file in files:
        refuse_links(*file.csv.parents[:2])
        with suppress(BusyError), locked(file.lock, f"{file.csv} is being computed"):
            missing = {name: metrics[name] for name in file.missing(configs, masks)}  # fewer, if another computed some
            if missing:
                _score_file(file, missing, configs, masks, device)
            computed += len(missing)
    return computed


def _score_file(
    file: ScoreFile, metrics: Mapping[str, ScoreMetric], configs: Configs, masks: Path | None, device: str
) -> None:
    """Compute these metrics and write them with the rows that the file has of others, where these still hold."""
    began = time.time()
    reads = {metric.reads_references for metric in metrics.values()}
    # Before anything is read: what another process changes meanwhile then does not pass for what was scored.
    inputs = {with_references: file.inputs(masks, with_references) for with_references in reads}
    for references, concept in {item.references: item.concept for item in file.items}.items():
        key = _key(references)
        if new := [m for m in metrics.values() if m.reads_references and key not in m.references]:
            photos = [load_photo(p) if masks is None else masked_photo(masks, concept, p) for p in references]
            for metric in new:
                metric.set_references(key, photos)
    computed = _computed_rows(file.items, metrics, masks is not None)
    kept = {name: record for name, record in file.current(masks).items() if name not in metrics}
    rows = [row for row in (read_scores(file.csv) if kept else []) if row.metric in kept]
    write_scores(file.csv, sorted([*rows, *computed], key=lambda row: row.metric))
    about = {**provenance(began, device), "masks": str(masks) if masks else None}
    added = {
        name: {
            **about,
            "inputs": inputs[metric.reads_references],
            "reads_references": metric.reads_references,
            "identity": metric_identity(configs[name]),
            "config": configs[name],
        }
        for name, metric in metrics.items()
    }
    write_json(file.provenance, {"csv_sha256": _digest(file.csv), "metrics": {**kept, **added}})


def _computed_rows(items: Sequence[Item], metrics: Mapping[str, ScoreMetric], masked: bool) -> list[ScoreRow]:
    """Return a row for each item and image metric, and for each concept and set metric, where there is a value."""
    from dti_repro.metrics.base import Sample, SetMetric

    samples = [Sample(_key(item.references), item.text, dict(item.expect)) for item in items]
    found: dict[str, list[Any]] = {name: [] for name in metrics}  # each item's value, or what a set metric keeps of it
    for begin in range(0, len(items), BATCH):
        part = slice(begin, begin + BATCH)
        images = [load_photo(item.path) for item in items[part]]
        for name, metric in metrics.items():
            is_set = isinstance(metric, SetMetric)
            found[name] += metric.keep(images) if is_set else metric.score(images, samples[part]).double().tolist()
    sets: dict[str, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        sets[sample.concept].append(number)
    rows = []
    for name, metric in metrics.items():
        if isinstance(metric, SetMetric):
            values = []
            for own in sets.values():
                value = metric.score_set([found[name][i] for i in own], [samples[i] for i in own])
                values.append((("", "", "", 0, items[own[0]].concept), value))
        else:
            of_items = [(i.path.name, i.template, i.text, i.seed, i.concept) for i in items]
            values = list(zip(of_items, found[name], strict=True))
        of_masked = masked and metric.reads_references
        rows += [ScoreRow(*about, name, value, of_masked) for about, value in values if not math.isnan(value)]
    return rows


def _key(references: tuple[Path, ...]) -> str:
    return "\n".join(map(str, references))


def _digest(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} does not exist: generate or fetch it again")
    return sha256_once(path)
