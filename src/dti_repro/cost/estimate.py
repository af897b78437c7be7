"""Turn counted operations and an assumed machine into hours, memory and disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dti_repro.cost.device import Device
from dti_repro.cost.model import Evaluator, ModelCost, evaluator
from dti_repro.cost.workload import Training, Workload
from dti_repro.errors import InputError
from dti_repro.metrics.catalogue import metric_config

LOG_ROW = 60  # bytes of a step's line in log.csv
SCORE_ROW = 150  # bytes of a row in a score file
CHECKPOINT = 4  # last.ckpt and embedding together: the vectors, once more, and two moments


@dataclass(frozen=True)
class Stage:
    """total, done: in `unit`. flops, hours: of what is left to do."""

    name: str
    unit: str
    total: int
    done: int
    flops: int
    hours: float


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, and of what else is held at once for each of so many samples or pictures."""

    name: str
    weights: int
    each: int
    at_once: int
    unit: str

    @property
    def total(self) -> int:
        return self.weights + self.each * self.at_once

    def fitting(self, available: float) -> int:
        """Return how many would fit into so many bytes."""
        return max(0, int((available - self.weights) // self.each))


@dataclass(frozen=True)
class Estimate:
    models: Sequence[ModelCost]
    evaluators: Sequence[Evaluator]
    uncounted: Sequence[str]  # what the figures leave out
    step: Mapping[str, Any] | None  # one optimizer step of one concept
    picture: Mapping[str, Any] | None
    stages: Sequence[Stage]
    memory: Sequence[Memory]
    disk: Mapping[str, int]  # what -> bytes

    def as_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("uncounted", "step", "picture", "disk")}
        return {
            **plain,
            "models": [_model_json(model) for model in self.models],
            "evaluators": [asdict(one) for one in self.evaluators],
            "stages": [asdict(stage) for stage in self.stages],
            "memory": [{**asdict(entry), "total": entry.total} for entry in self.memory],
        }


def estimate(work: Workload, device: Device, png_bytes_per_pixel: float) -> Estimate:
    """Estimate all that the workload leaves to do. InputError for a backbone that has no cost."""
    models = [_model(training.cfg, work.generation) for training in work.trainings]
    scorers, uncounted = _evaluators(work.metrics)
    if any(len(training.cfg.adapter) > 1 for training in work.trainings):
        uncounted.append("gradients of adapters, and the passes without them that their objectives take")
    stages = [_train(work.trainings, models, device)]
    memory = _training_memory(work.trainings, models, device)
    trained = sum(_trained_bytes(training, model) for training, model in zip(work.trainings, models, strict=True))
    disk: dict[str, int] = {"weights": 0, "trainings": trained}
    picture, cfg = None, work.generation
    if cfg is not None:
        model = models[0] if models else _model(cfg, cfg)
        models = models or [model]
        height, width = model.size
        flops, left = model.picture(cfg.steps, cfg.guidance), work.pictures - work.generated
        seconds = device.seconds(model.latent_picture(cfg.steps, cfg.guidance), model.generation_dtype)
        seconds += device.seconds(model.decoding.flops, model.vae_dtype)
        stages.append(Stage("draw", "pictures", work.pictures, work.generated, left * flops, left * seconds / 3600))
        stages.append(_score(work, scorers, device))
        disk["pictures"] = int(work.pictures * height * width * png_bytes_per_pixel)
        disk["scores"] = SCORE_ROW * work.pictures * len(work.metrics)
        at_once = min(cfg.batch, max(work.pictures, 1))
        memory.append(Memory("drawing", model.weight_bytes, model.picture_peak(cfg.guidance), at_once, "pictures"))
        picture = {"steps": cfg.steps, "guidance": cfg.guidance, "height": height, "width": width}
        picture |= {"flops": flops, "seconds": seconds}
    disk["weights"] = max((model.stored_bytes for model in models), default=0)
    step = _step(work.trainings[0], models[0], device) if work.trainings else None
    distinct = list({id(model): model for model in models}.values())
    return Estimate(distinct, list(scorers.values()), uncounted, step, picture, stages, memory, disk)


def _model(cfg: DictConfig, generation: DictConfig | None) -> ModelCost:
    node = OmegaConf.to_container(cfg.backbone, resolve=True)
    precision = OmegaConf.select(cfg, "trainer.precision") or "fp32"
    size = (None, None) if generation is None else (generation.height, generation.width)
    return _cached_model(json.dumps(node, sort_keys=True), precision, *size)


@lru_cache
def _cached_model(backbone: str, precision: str, height: int | None, width: int | None) -> ModelCost:
    return ModelCost(json.loads(backbone), precision, height, width)


def _model_json(model: ModelCost) -> dict[str, Any]:
    costs = {name: asdict(getattr(model, name)) for name in ("sample", "text", "denoiser", "photo")}
    return {"source": model.source, "parameters": model.parameters, "resolution": model.resolution, **costs}


def _evaluators(metrics: Sequence[str]) -> tuple[dict[str, Evaluator], list[str]]:
    """Return each metric's evaluator, and the ones that are not known."""
    known: dict[str, Evaluator] = {}
    unknown = []
    for metric in metrics:
        try:
            known[metric] = evaluator(metric_config(metric))
        except InputError as error:
            unknown.append(f"{metric}: {error}")
    return known, unknown


def _train(trainings: Sequence[Training], models: Sequence[ModelCost], device: Device) -> Stage:
    total = done = flops = 0
    seconds = 0.0
    for training, model in zip(trainings, models, strict=True):
        left = [name for name in training.photos if name not in training.done]
        total, done = total + len(training.photos), done + len(training.done)
        steps = len(left) * training.samples * model.sample.flops
        photos = sum(training.photos[name] for name in left) * model.photo.flops
        flops += steps + photos
        seconds += device.seconds(steps, model.training_dtype) + device.seconds(photos, model.vae_dtype)
    return Stage("train", "concepts", total, done, flops, seconds / 3600)


def _score(work: Workload, scorers: Mapping[str, Evaluator], device: Device) -> Stage:
    """Metrics that share a network share its passes; evaluators run in float32."""
    flops = 0
    for scoring in work.scorings:
        needed = {scorers[metric] for metric in scoring.missing if metric in scorers}
        flops += scoring.images * sum(one.image + one.text for one in needed)
    total = sum(scoring.images for scoring in work.scorings) * len(work.metrics)
    missing = sum(scoring.images * len(scoring.missing) for scoring in work.scorings)
    return Stage("score", "scores", total, total - missing, flops, device.seconds(flops, "float32") / 3600)


def _step(training: Training, model: ModelCost, device: Device) -> dict[str, Any]:
    """Return the cost of an optimizer step of one concept."""
    samples = training.cfg.trainer.batch * training.cfg.trainer.accumulate
    flops = samples * model.sample.flops
    return {"samples": samples, "flops": flops, "seconds": device.seconds(flops, model.training_dtype)}


def _training_memory(trainings: Sequence[Training], models: Sequence[ModelCost], device: Device) -> list[Memory]:
    """Return the memory of the training that needs most."""
    found = []
    for training, model in zip(trainings, models, strict=True):
        trainer = training.cfg.trainer
        fused = device.fused if trainer.fuse == "auto" else trainer.fuse
        samples = trainer.batch * (min(trainer.pack, len(training.photos)) if fused else 1)
        found.append(Memory("training", model.weight_bytes, model.sample.peak, samples, "samples"))
    return sorted(found, key=lambda memory: memory.total)[-1:]


def _trained_bytes(training: Training, model: ModelCost) -> int:
    """Return the bytes on disk with one vector a concept; longer initializers make more, which are kilobytes too."""
    return len(training.photos) * (CHECKPOINT * model.vector_bytes + LOG_ROW * training.cfg.trainer.steps)
