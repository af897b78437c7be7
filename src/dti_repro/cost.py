"""Estimate what an experiment costs, before it is run.

FLOPs and memory are counted by running the backbone's own methods on the meta device, where tensors have shapes and no
data: nothing is computed and nothing is downloaded. A `Device` turns FLOPs into hours.
"""

from __future__ import annotations

import inspect
import json
import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from dti_repro import backbones
from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.base import Conditioning, TokenVectors
from dti_repro.backbones.checkpoint import find
from dti_repro.backbones.diffusers_base import DiffusersBackbone
from dti_repro.config import build
from dti_repro.errors import InputError
from dti_repro.metrics import catalogue

META = torch.device("meta")
BYTES = {"float32": 4, "bfloat16": 2}
GIB = 2**30
USABLE = 0.9  # share of a device's memory that may be filled
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
WORD = "<x>"
# Names of the functions that autocast to bfloat16 computes in each type: torch's lists for CUDA, as far as needed.
IN_BFLOAT16 = {"linear", "conv2d", "conv3d", "scaled_dot_product_attention", "bmm", "baddbmm", "matmul", "__matmul__"}
IN_FLOAT32 = {"group_norm", "layer_norm", "softmax", "pow", "rsqrt"}
ATTENTION = torch.ops.aten._scaled_dot_product_efficient_attention
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_efficient_attention_backward


@dataclass(frozen=True)
class Device:
    """Describe the machine that a plan is for.

    peak_tflops: float32 and bfloat16 -> published peak of dense matrix products. memory_gib: None: not to be judged.
    utilisation: assumed share of the peak that is reached. fused: whether trainer.fuse=auto trains a pack in one pass.
    """

    name: str
    peak_tflops: Mapping[str, float]
    memory_gib: float | None
    utilisation: float
    fused: bool

    def __post_init__(self) -> None:
        values = {f"peak_tflops.{dtype}": self.peak_tflops.get(dtype) for dtype in BYTES}
        values["utilisation"] = self.utilisation
        if self.memory_gib is not None:
            values["memory_gib"] = self.memory_gib
        for key, value in values.items():
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"device.{key} is {value}: a number above 0 is needed")
        if self.utilisation > 1:
            raise InputError(f"device.utilisation is {self.utilisation}: a share of the peak is needed, at most 1")

    def seconds(self, flops: float, dtype: str) -> float:
        """Return how long these FLOPs take at the assumed utilisation."""
        return flops / (self.peak_tflops[dtype] * 1e12 * self.utilisation)


@dataclass(frozen=True)
class Cost:
    """FLOPs of matrix products, convolutions and attention, two for a multiply-add. peak: bytes that are alive at once,
    without the weights."""

    forward: int
    backward: int
    peak: int

    @property
    def flops(self) -> int:
        return self.forward + self.backward

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward, self.peak + other.peak)


def measure(run: Callable[[], object], weights: Iterable[Tensor], autocast: bool = False) -> Cost:
    """Count the cost of run() on the meta device, and of the backward pass from the scalar that it returns, if any.

    autocast: to bfloat16. What fused attention computes a second time in its backward pass does not count, as is usual
    where utilisations of models are compared.
    """
    memory = MemoryMode(weights)
    counter = FlopCounterMode(display=False, custom_mapping={ATTENTION_BACKWARD: _attention_backward_flops})
    with memory, counter, GpuMode(autocast):
        out = run()
        forward = counter.get_total_flops()
        if isinstance(out, Tensor) and out.requires_grad:
            # From the edge: from a tensor, torch leaves GpuMode, which a checkpointed denoiser needs to run again.
            torch.autograd.backward(get_gradient_edge(out), torch.ones_like(out))
        del out
    return Cost(forward, counter.get_total_flops() - forward, memory.peak)


class MemoryMode(TorchDispatchMode):
    """Count the bytes of the storages that are alive, also of tensors that autograd saves."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.alive = WeakIdKeyDictionary({weight.untyped_storage(): True for weight in weights})
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in [tensor.untyped_storage() for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]:
            if storage not in self.alive:
                self.alive[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, size: int) -> None:
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


class GpuMode(TorchFunctionMode):
    """Do on the meta device what a GPU does: autocast, and attention in one kernel, which keeps no matrix of scores.

    A question about values is answered with no: transformers asks whether a prompt has no padding.
    """

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        self.autocast = autocast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        if self.autocast and name in IN_BFLOAT16 | IN_FLOAT32:
            dtype = torch.bfloat16 if name in IN_BFLOAT16 else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, (args, kwargs))
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, enable_gqa: bool = False, **more: Any) -> Tensor:
    """Compute scaled_dot_product_attention by a fused kernel. Mask, dropout and scale change no count: left out."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    return ATTENTION(query, key, value, None, torch.is_grad_enabled())[0]


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    """Count a product for each wanted gradient of query, key and value, and one for the gradient of the scores, which
    the first two need. The arguments are shapes."""
    wanted = rest[6][:3]
    return (sum(wanted) + any(wanted[:2])) * sdpa_flop_count(query, key, value) // 2


class ModelCost:
    """Count what a backbone costs for one training sample, one photo or one image, when it is first asked for.

    backbone: the plain `backbone` node of a configuration. precision: as trainer.precision; None where nothing is
    trained. InputError for a backbone that is no diffusers model, or is neither downloaded nor in backbones/published.
    """

    def __init__(self, backbone: Mapping[str, Any], precision: str | None = None) -> None:
        folder = find(backbone["path"], backbone["revision"])
        if folder is not None:
            self.source = str(folder)
            model = _without_weights(backbone, folder)
            self.stored_bytes = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
        else:
            self.source = f"the published configuration of {backbone['name']}"
            with tempfile.TemporaryDirectory() as written:
                weight_bytes = _write_published(backbone, Path(written))
                model = _without_weights(backbone, Path(written))
            self.stored_bytes = weight_bytes * sum(weight.numel() for weight in model.parameters())
        self._model, self._autocast = model, precision == "bf16"
        self._weights = [*model.parameters(), *model.buffers()]
        parts = {**model.text_encoders, "denoiser": model.denoiser, "vae": model.vae}
        self.parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        self.weight_bytes = sum(weight.nbytes for weight in model.parameters())
        self.generation_dtype = backbone["dtype"]
        self.training_dtype = "bfloat16" if self._autocast else self.generation_dtype
        self.vae_dtype = str(model.vae.dtype).removeprefix("torch.")
        self.resolution = model.spec.resolution

    @cached_property
    def text(self) -> Cost:
        """Encode a training prompt, and go back to its token vectors."""
        dims = {name: encoder.dim for name, encoder in self._model.spec.encoders.items()}
        vectors = {name: torch.empty(1, 1, 1, dim, device=META, requires_grad=True) for name, dim in dims.items()}

        def encode() -> Tensor:
            encoded = self._conditioning(vectors)
            return sum(part.float().sum() for part in (encoded.hidden, encoded.pooled) if part is not None)

        return measure(encode, self._weights, self._autocast)

    @cached_property
    def denoiser(self) -> Cost:
        """Compute the loss of a training sample, and go back to its conditioning."""
        with torch.no_grad(), GpuMode():
            conditioning = self._conditioning()
        for part in (conditioning.hidden, conditioning.pooled):
            if part is not None:
                part.requires_grad_()
        latents = self._latents(self.resolution, self.resolution)
        return measure(lambda: self._loss(latents, conditioning), self._weights, self._autocast)

    @property
    def sample(self) -> Cost:
        """Train on one sample: its prompt and its loss, forward and backward."""
        return self.text + self.denoiser

    @cached_property
    def photo(self) -> Cost:
        """Encode a photo, which a training does once."""
        return measure(lambda: self._latents(self.resolution, self.resolution), self._weights)

    @torch.no_grad()
    def image(self, height: int, width: int, steps: int, guidance: float) -> tuple[Cost, Cost]:
        """Return the costs of an image's latents (its prompt and each step, which is two passes with guidance) and of
        decoding them. The empty prompt, once a batch, does not count."""
        tokens = self._model.tokenize([""], {}, self._model.generation_prefix)
        prompt = measure(lambda: self._model.encode_text(tokens), self._weights)
        with GpuMode():
            conditioning = self._conditioning()
        latents, passes = self._latents(height, width), 2 if guidance > 1 else 1
        denoising = measure(lambda: self._loss(latents, conditioning), self._weights)
        flops, peak = prompt.flops + steps * passes * denoising.flops, prompt.peak + passes * denoising.peak
        latents = latents.to(self._model.vae.dtype)
        return Cost(flops, 0, peak), measure(lambda: self._model.vae.decode(latents, return_dict=False), self._weights)

    def image_size(self) -> tuple[int, int]:
        """Return the height and width in pixels of an image without width= and height=."""
        sample = self._model.denoiser.config.get("sample_size")
        if sample is not None:
            return sample * self._model.factor, sample * self._model.factor
        defaults = inspect.signature(self._model.PIPELINE_CLASS.__call__).parameters
        return defaults["height"].default, defaults["width"].default

    def _conditioning(self, vectors: TokenVectors | None = None) -> Conditioning:
        return self._model.encode_text(self._model.tokenize([WORD], {WORD: 1}), vectors)

    def _latents(self, height: int, width: int) -> Tensor:
        pixels = torch.empty(1, 3, height, width, dtype=self._model.vae.dtype, device=META)
        return self._model.encode_images(pixels).mean

    def _loss(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        t = torch.zeros(1, dtype=torch.long, device=META)
        return self._model.loss(latents, torch.empty_like(latents), t, conditioning).sum()


def _without_weights(backbone: Mapping[str, Any], folder: Path) -> DiffusersBackbone:
    """Build the backbone of this checkpoint on the meta device, where compiling would change nothing."""
    diffusers.utils.logging.set_verbosity_error()
    settings = {key: value for key, value in backbone.items() if key != "generation"}
    with META:
        return build({**settings, "path": str(folder), "compile": False}, DiffusersBackbone, "backbone").to(META)


def _write_published(backbone: Mapping[str, Any], folder: Path) -> int:
    """Write a backbone's published configs as a checkpoint without weights; return the bytes of a published weight. The
    tokenizer makes a token of each four letters, which is about right for English. InputError if none are published."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    file = Path(backbones.__file__).parent / "published" / f"{backbone['name']}.yaml"
    if not file.is_file():
        raise InputError(
            f"backbone.path {backbone['path']} is not downloaded, and backbones/published has no {file.name}: download "
            "it, or give a checkpoint's folder"
        )
    published = read_yaml(file)
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]{1,4}"), "isolated")
    for part, config in published["parts"].items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        (folder / part / "model.safetensors").touch()  # a checkpoint must have it; it is not read
        if part.startswith("text_encoder"):
            length = config.get("max_position_embeddings")
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="?", model_max_length=length)
            tokenizer.save_pretrained(folder / part.replace("text_encoder", "tokenizer"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": published["scheduler"]}))
    index = {part.name: ["library", "class"] for part in folder.iterdir()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return BYTES[published["published_as"]]


def evaluator_cost(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint that a metric's yaml names, its number of parameters and its FLOPs for an image; texts cost
    less and are left out. InputError for a checkpoint whose architecture is not known here."""
    encoder = config.get("encoder", config)
    checkpoint, preprocess = encoder["checkpoint"], encoder.get("preprocess")
    with catalogue.loading_weights(checkpoint), META:
        network, size = _network(checkpoint)
    if preprocess is not None:
        resize = preprocess["resize"]
        size = preprocess["crop"] or (resize[0] if isinstance(resize, list) else resize)
    network.requires_grad_(False).eval()
    encode = getattr(network, "vision_model", None) or getattr(network, "encode_image", network)
    weights, pixels = list(network.parameters()), torch.empty(1, 3, size, size, device=META)
    flops = measure(lambda: encode(pixels), weights).flops
    return {"checkpoint": checkpoint, "parameters": sum(weight.numel() for weight in weights), "image": flops}


def _network(checkpoint: str) -> tuple[nn.Module, int]:
    """Return the network and the side of its images in pixels; 0 where the metric's `preprocess` says it."""
    import open_clip
    import timm
    from transformers import AutoConfig, AutoModel

    published = read_yaml(Path(catalogue.__file__).with_name("published.yaml"))
    if checkpoint in published:
        return AutoModel.from_config(AutoConfig.for_model(**published[checkpoint])), 0
    folder = catalogue.weights_folder(checkpoint)
    if folder is not None and (folder / "open_clip_config.json").is_file():
        clip = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    else:
        clip = open_clip.get_model_config(checkpoint)
    if clip is not None:
        text = {key: value for key, value in clip["text_cfg"].items() if key != "hf_tokenizer_name"}
        return open_clip.CLIP(clip["embed_dim"], clip["vision_cfg"], text), clip["vision_cfg"]["image_size"]
    network = timm.create_model(catalogue.resolve_weights(checkpoint), pretrained=False)
    return network, timm.data.resolve_model_data_config(network)["input_size"][-1]


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
        model, samples, at_once = self._model, 0, 0
        for trainer in (cfg.trainer for cfg in trainings):
            samples += concepts * trainer.steps * trainer.batch * trainer.accumulate
            fused = self._device.fused if trainer.fuse == "auto" else trainer.fuse
            at_once = max(at_once, trainer.batch * (min(trainer.pack, concepts) if fused else 1))
        learning, encoding = samples * model.sample.flops, len(trainings) * photos * model.photo.flops
        seconds = self._device.seconds(learning, model.training_dtype) + self._device.seconds(encoding, model.vae_dtype)
        self._add_stage("train", "concepts", len(trainings) * concepts, learning + encoding, seconds)
        self._add_memory("train", "samples", model.sample.peak, at_once)
        first = trainings[0].trainer
        step = {"steps": first.steps, "samples": first.batch * first.accumulate}
        flops = step["samples"] * model.sample.flops
        self.data["step"] = {**step, "flops": flops, "seconds": self._device.seconds(flops, model.training_dtype)}
        if any(len(cfg.adapter) > 1 for cfg in trainings):
            text = "gradients of adapters, and the passes without them that their objectives take"
            self.data["uncounted"].append(text)

    def add_images(self, cfg: DictConfig, images: int, png_bytes_per_pixel: float) -> None:
        """Add images that a configuration of generate draws."""
        model = self._model
        height, width = (cfg.height, cfg.width) if cfg.height and cfg.width else model.image_size()
        latents, decoding = model.image(height, width, cfg.steps, cfg.guidance)
        flops, dtype = latents.flops + decoding.flops, model.generation_dtype
        seconds = self._device.seconds(latents.flops, dtype) + self._device.seconds(decoding.flops, model.vae_dtype)
        image = {"steps": cfg.steps, "guidance": cfg.guidance, "height": height, "width": width}
        self.data["image"] = {**image, "flops": flops, "seconds": seconds}
        self.data["disk"]["images"] = int(images * height * width * png_bytes_per_pixel)
        self._add_stage("draw", "images", images, images * flops, images * seconds)
        self._add_memory("draw", "images", max(latents.peak, decoding.peak), min(cfg.batch, images))

    def add_scores(self, metrics: Mapping[str, Mapping[str, Any]], images: int) -> None:
        """Add the scores of images. metrics: name -> yaml; those with the same network share its passes, in float32."""
        networks = {}
        for name, config in metrics.items():
            try:
                network = evaluator_cost(config)
                networks[network["checkpoint"]] = network
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
