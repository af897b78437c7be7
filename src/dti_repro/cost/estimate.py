"""Add up the FLOPs, hours, memory and disk of an experiment. A `Device` turns FLOPs into hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, PositiveFloat

from dti_repro.config import target
from dti_repro.cost.models import BYTES, ModelCost, evaluator_cost
from dti_repro.errors import InputError
from dti_repro.methods.base import DerivedMethod, TokenMethod
from dti_repro.metrics.catalogue import encoder_of

GIB = 2**30
USABLE = 0.9  # share of a device's memory that may be filled
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True)
class Device:
    """Describe the machine that a plan is for.

    peak_tflops: float32 and bfloat16 -> published peak of dense matrix products. memory_gib: None: not to be judged.
    utilisation: assumed share of the peak that is reached. fused: whether trainer.fuse=auto trains a pack in one pass.
    """

    name: str
    peak_tflops: Mapping[str, PositiveFloat]
    memory_gib: PositiveFloat | None
    utilisation: Annotated[float, Field(gt=0, le=1)]
    fused: bool

    def __post_init__(self) -> None:
        for dtype in BYTES:
            if dtype not in self.peak_tflops:
                raise InputError(f"device.peak_tflops has no {dtype}: give the published peak of matrix products")

    def seconds(self, flops: float, dtype: str) -> float:
        """Return how long these FLOPs take at the assumed utilisation."""
        return flops / (self.peak_tflops[dtype] * 1e12 * self.utilisation)


class Estimate:
    """Add up what trainings, images and scores cost, whether some of them are done or not.

    cfg: a configuration of train or generate, whose backbone and precision are counted. data: FLOPs, hours, and bytes
    of memory and disk, as plain data.
    """

    def __init__(self, cfg: DictConfig, device: Device) -> None:
        backbone = OmegaConf.to_container(cfg.backbone, resolve=True)
        self._model = model = ModelCost(backbone, OmegaConf.select(cfg, "trainer.precision"))
        self._device = device
        costs = {name: asdict(getattr(model, name)) for name in ("sample", "text", "denoiser", "photo")}
        self.data: dict[str, Any] = {
            "model": {"source": model.source, "parameters": model.parameters, "resolution": model.resolution, **costs},
            "step": None,
            "image": None,
            "evaluators": [],
            "stages": [],
            "memory": [],
            "disk": {"weights": model.stored_bytes},
            "uncounted": ["texts of metrics, reading and saving files, the gaps of the memory allocator"],
        }

    def add_trainings(self, trainings: Sequence[DictConfig], concepts: int, photos: int) -> None:
        """Add trainings of the same concepts. photos: of all concepts together."""
        model, learning, views, at_once = self._model, 0, 0, 0
        depends_on = [target(cfg.method._target_, TokenMethod | DerivedMethod).depends_on for cfg in trainings]
        each = [model.sample_flops(by_layer="layer" in kinds) for kinds in depends_on]
        for cfg, flops in zip(trainings, each, strict=True):
            trainer = cfg.trainer
            learning += concepts * trainer.steps * trainer.batch * trainer.accumulate * flops
            views += photos * (trainer.crops if trainer.crop == "random" else 1)  # of photos that are no squares
            fused = self._device.fused if trainer.fuse == "auto" else trainer.fuse
            at_once = max(at_once, trainer.batch * (min(trainer.pack, concepts) if fused else 1))
        encoding = views * model.photo.flops
        seconds = self._device.seconds(learning, model.training_dtype) + self._device.seconds(encoding, model.vae_dtype)
        self._add_stage("train", "concepts", len(trainings) * concepts, learning + encoding, seconds)
        self._add_memory("train", "samples", model.sample.peak, at_once)
        first = trainings[0].trainer
        step = {"steps": first.steps, "samples": first.batch * first.accumulate}
        flops = step["samples"] * each[0]
        self.data["step"] = {**step, "flops": flops, "seconds": self._device.seconds(flops, model.training_dtype)}
        if any(depends_on):
            self.data["uncounted"].append("prompts that are encoded for each layer and timestep when they are drawn")
        if any(len(cfg.adapter) > 1 for cfg in trainings):
            text = "gradients of adapters, and the passes without them that their objectives take"
            self.data["uncounted"].append(text)

    def add_images(self, cfg: DictConfig, images: int, png_bytes_per_pixel: float) -> None:
        """Add images that a configuration of generate draws."""
        model = self._model
        height, width = (cfg.height, cfg.width) if cfg.height and cfg.width else model.image_size()
        latents, decoding = model.image(height, width, cfg.steps, cfg.guidance)
        flops, dtype = latents.flops + decoding.flops, model.generation_dtype
        seconds = self._device.seconds(latents.flops, dtype) + self._device.seconds(
            decoding.flops, model.drawing_vae_dtype
        )
        image = {"steps": cfg.steps, "guidance": cfg.guidance, "height": height, "width": width}
        self.data["image"] = {**image, "flops": flops, "seconds": seconds}
        self.data["disk"]["images"] = int(images * height * width * png_bytes_per_pixel)
        self._add_stage("draw", "images", images, images * flops, images * seconds)
        self._add_memory("draw", "images", max(latents.peak, decoding.peak), min(cfg.batch, images))

    def add_scores(self, metrics: Mapping[str, Mapping[str, Any]], images: int) -> None:
        """Add the scores of images. metrics: name -> yaml; those with the same weights and preprocessing share the
        passes of one network, in float32."""
        networks = {}
        for name, config in metrics.items():
            shared = str([encoder_of(config).get(key) for key in ("checkpoint", "pretrained", "preprocess")])
            try:
                networks[shared] = networks.get(shared) or evaluator_cost(config)
            except InputError as error:
                self.data["uncounted"].append(f"{name}: {error}")
        self.data["evaluators"] = list(networks.values())
        flops = images * sum(network["image"] for network in networks.values())
        self._add_stage("score", "scores", images * len(metrics), flops, self._device.seconds(flops, "float32"))

    def _add_stage(self, name: str, unit: str, total: int, flops: int, seconds: float) -> None:
        stage = {"name": name, "unit": unit, "total": total, "flops": flops, "hours": seconds / 3600}
        self.data["stages"].append(stage)

    def _add_memory(self, name: str, unit: str, each: int, at_once: int) -> None:
        weights, limit = self._model.weight_bytes, self._device.memory_gib
        fitting = None if limit is None else max(0, int((USABLE * limit * GIB - weights) // each))
        counts = {"weights": weights, "each": each, "at_once": at_once, "total": weights + each * at_once}
        self.data["memory"].append({"name": name, "unit": unit, **counts, "fitting": fitting})

    def report(self) -> str:
        """Return the data as aligned lines of text, with what is assumed."""
        return "\n".join(f"{name:<12} {text}" for name, text in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        data, device = self.data, self._device
        yield "backbone", data["model"]["source"]
        parameters = data["model"]["parameters"].items()
        yield "parameters", ", ".join(f"{name} {_number(count)}" for name, count in parameters)
        for part in ("sample", "text", "denoiser", "photo"):
            forward, backward = (f"{_number(data['model'][part][way])}FLOP {way}" for way in ("forward", "backward"))
            yield part, forward if part == "photo" else f"{forward}, {backward}"
        for unit in filter(data.get, ("step", "image")):
            details = ", ".join(f"{n} {key}" for key, n in data[unit].items() if key not in ("flops", "seconds"))
            yield unit, f"{_number(data[unit]['flops'])}FLOP, {data[unit]['seconds']:.3g} s ({details})"
        for network in data["evaluators"]:
            yield "evaluator", f"{_number(network['image'])}FLOP an image ({network['checkpoint']})"
        total = {key: sum(stage[key] for stage in data["stages"]) for key in ("flops", "hours")}
        for stage in (*data["stages"], {"name": "total", "total": "", "unit": "", **total}):
            amount = f"{stage['total']:>7} {stage['unit']:<8} {_number(stage['flops']):>8}FLOP"
            yield stage["name"], f"{amount} {stage['hours']:>9,.2f} h"
        for entry in data["memory"]:
            each = f"{entry['at_once']} {entry['unit']} x {entry['each'] / GIB:.3g}"
            text = f"{entry['total'] / GIB:.3g} GiB to {entry['name']} = weights {entry['weights'] / GIB:.3g} + {each}"
            fits = entry["fitting"] is None or entry["at_once"] <= entry["fitting"]
            limit = f"{USABLE:.0%} of {device.memory_gib} GiB, {entry['fitting']} {entry['unit']} would"
            yield "memory", text if fits else f"{text}: DOES NOT FIT into {limit}"
        yield "disk", ", ".join(f"{name} {size / GIB:.3g} GiB" for name, size in data["disk"].items())
        peaks = ", ".join(f"{peak:g} TFLOP/s in {dtype}" for dtype, peak in device.peak_tflops.items())
        yield "assumed", f"{device.name}: {peaks}, of which {device.utilisation:.0%} is reached (device.utilisation)"
        yield "counted", "everything, done or not; FLOPs of matrix products, convolutions and attention"
        yield from (("not counted", text) for text in data["uncounted"])


def _number(count: float) -> str:
    size, prefix = next((pair for pair in PREFIXES if count >= pair[0]), (1, ""))
    return f"{count / size:.4g} {prefix}"
