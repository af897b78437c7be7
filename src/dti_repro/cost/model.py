"""Count what a training sample, a photo, a picture and a score cost, by running the models on the meta device."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import yaml
from torch import Tensor, nn

from dti_repro import backbones
from dti_repro.backbones.base import Backbone, Conditioning
from dti_repro.backbones.checkpoint import find
from dti_repro.backbones.diffusers_base import DiffusersBackbone
from dti_repro.config import build
from dti_repro.cost.measure import META, AsOnDevice, Cost, measure, recomputing
from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints

PUBLISHED = Path(backbones.__file__).parent / "published"
BYTES = {"float32": 4, "bfloat16": 2}
WORD = "<x>"
UNREADABLE = (RuntimeError, ValueError, OSError, TypeError, KeyError, AttributeError)


class ModelCost:
    """What a backbone costs: its own encode_text, loss and encode_images, and its VAE's decode, run on the meta device.

    backbone: the plain `backbone` node of a configuration. precision: as trainer.precision. height, width: of a
    generated picture in pixels; None: the model's own size. Every cost is for one sample, photo, prompt or picture,
    and is counted when it is first asked for. InputError for a backbone that is not one of diffusers' models, or is
    neither here nor published.
    """

    def __init__(
        self, backbone: Mapping[str, Any], precision: str, height: int | None = None, width: int | None = None
    ) -> None:
        settings = {key: value for key, value in backbone.items() if key != "generation"}
        self._autocast = precision == "bf16"
        folder = find(backbone["path"], backbone["revision"])
        if folder is not None:
            self.source = str(folder)
            model = _without_weights(settings, folder)
        else:
            self.source = f"the architecture of {backbone['name']} that ships with the package"
            with _published(backbone["name"], backbone["path"]) as (written, stored):
                model = _without_weights(settings, written)
        self._model = model
        if backbone["checkpointing"]:
            model.denoiser.enable_gradient_checkpointing(recomputing(self._autocast))
        self._weights = [*model.parameters(), *model.buffers()]
        parts = {**model.text_encoders, "denoiser": model.denoiser, "vae": model.vae}
        self.parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        self.weight_bytes = sum(weight.nbytes for weight in model.parameters())
        if folder is not None:
            folders = [*model.text_encoders, model.DENOISER, "vae"]
            self.stored_bytes = sum(f.stat().st_size for name in folders for f in (folder / name).glob("*.safetensors"))
        else:
            self.stored_bytes = sum(self.parameters.values()) * stored
        self.vector_bytes = sum(4 * encoder.dim for encoder in model.spec.encoders.values())
        self.training_dtype = "bfloat16" if self._autocast else backbone["dtype"]
        self.generation_dtype = backbone["dtype"]
        self.vae_dtype = str(model.vae.dtype).removeprefix("torch.")
        self.resolution = model.spec.resolution
        self.size = (height, width) if height and width else _own_size(model)

    @cached_property
    def text(self) -> Cost:
        """Encode a training prompt, and go back to its vectors."""
        dims = {name: encoder.dim for name, encoder in self._model.spec.encoders.items()}
        vectors = {name: torch.empty(1, 1, 1, dim, device=META, requires_grad=True) for name, dim in dims.items()}
        tokens = self._model.tokenize([WORD], {WORD: 1})

        def learn() -> Tensor:
            encoded = self._model.encode_text(tokens, vectors)
            return encoded.hidden.float().sum() + (0 if encoded.pooled is None else encoded.pooled.float().sum())

        return measure(learn, self._weights, self._autocast)

    @cached_property
    def denoiser(self) -> Cost:
        """Compute the loss of a training sample, and go back to its conditioning."""
        given = self._conditioning()
        pooled = None if given.pooled is None else given.pooled.requires_grad_()
        given = replace(given, hidden=given.hidden.requires_grad_(), pooled=pooled)
        latents = self._latents(self.resolution, self.resolution)
        return measure(lambda: self._loss(latents, given), self._weights, self._autocast)

    @property
    def sample(self) -> Cost:
        """A training sample: its prompt and its loss, there and back."""
        text, denoiser = self.text, self.denoiser
        return Cost(text.forward + denoiser.forward, text.backward + denoiser.backward, text.peak + denoiser.peak)

    @cached_property
    def photo(self) -> Cost:
        """Encode a photo, which a training does once."""
        return measure(lambda: self._latents(self.resolution, self.resolution), self._weights)

    @cached_property
    def prompt(self) -> Cost:
        """Encode a prompt of generation; the empty one, once a batch, is not counted."""
        tokens = self._model.tokenize([""], {}, self._model.generation_prefix)
        return self._generating(lambda: self._model.encode_text(tokens))

    @cached_property
    def denoising(self) -> Cost:
        """Pass a picture's latents through the denoiser once."""
        given, latents = self._conditioning(), self._latents(*self.size)
        return self._generating(lambda: self._loss(latents, given))

    @cached_property
    def decoding(self) -> Cost:
        """Turn latents into a picture."""
        latents = self._latents(*self.size).to(self._model.vae.dtype)
        return self._generating(lambda: self._model.vae.decode(latents, return_dict=False))

    def latent_picture(self, steps: int, guidance: float) -> int:
        """FLOPs of a picture before it is decoded; with guidance each step is two passes."""
        return self.prompt.flops + _passes(guidance) * steps * self.denoising.flops

    def picture(self, steps: int, guidance: float) -> int:
        """FLOPs of a picture."""
        return self.latent_picture(steps, guidance) + self.decoding.flops

    def picture_peak(self, guidance: float) -> int:
        """Bytes besides the weights for each picture of a batch."""
        return max(self.prompt.peak + _passes(guidance) * self.denoising.peak, self.decoding.peak)

    @torch.no_grad()
    def _conditioning(self) -> Conditioning:
        with AsOnDevice():
            return self._model.encode_text(self._model.tokenize([WORD], {WORD: 1}))

    def _latents(self, height: int, width: int) -> Tensor:
        pixels = torch.empty(1, 3, height, width, dtype=self._model.vae.dtype, device=META)
        return self._model.encode_images(pixels).mean

    def _loss(self, latents: Tensor, given: Conditioning) -> Tensor:
        t = torch.zeros(1, dtype=torch.long, device=META)
        return self._model.loss(latents, torch.empty_like(latents), t, given).sum()

    @torch.no_grad()
    def _generating(self, run: Callable[[], object]) -> Cost:
        return measure(run, self._weights)


def _passes(guidance: float) -> int:
    return 2 if guidance > 1 else 1


def _without_weights(settings: Mapping[str, Any], folder: Path) -> DiffusersBackbone:
    """Build the backbone of this folder on the meta device."""
    diffusers.utils.logging.set_verbosity_error()
    try:
        with META:
            model = build({**settings, "path": str(folder), "checkpointing": False, "compile": False}, Backbone)
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        reason = _first_line(error)
        raise InputError(f"backbone.path: the configs of {folder} make no model: {reason}") from error
    if not isinstance(model, DiffusersBackbone):
        raise InputError(f"there is no plan for backbone '{settings['name']}': it is none of diffusers' models")
    return model.to(META)


@contextmanager
def _published(name: str, path: str) -> Iterator[tuple[Path, int]]:
    """Write the published configs of a backbone as a checkpoint without weights; yield it, and the bytes of a weight.

    Its tokenizer makes a token of each four letters, which is about right for English, and knows no words.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    file = PUBLISHED / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in PUBLISHED.glob("*.yaml")))
        raise InputError(
            f"backbone.path {path} is not downloaded, and no architecture ships as '{name}' (there are: {known}): "
            "download it, or give a checkpoint's folder"
        )
    content = yaml.safe_load(file.read_text())
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]{1,4}"), "isolated")
    with tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        for part, config in content["parts"].items():
            (folder / part).mkdir()
            (folder / part / "config.json").write_text(json.dumps(config))
            (folder / part / "model.safetensors").touch()  # a checkpoint must have it; it is not read
            if part.startswith("text_encoder"):
                length = config.get("max_position_embeddings")
                tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="?", model_max_length=length)
                tokenizer.save_pretrained(folder / part.replace("text_encoder", "tokenizer"))
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": content["scheduler"]}))
        index = {part.name: [None, "published"] for part in folder.iterdir()}
        (folder / "model_index.json").write_text(json.dumps(index))
        yield folder, BYTES[content["published_as"]]


def _own_size(model: DiffusersBackbone) -> tuple[int, int]:
    """Height and width of a picture, in pixels, if nothing else is asked for."""
    sample = model.denoiser.config.get("sample_size")
    if sample is not None:
        return sample * model.factor, sample * model.factor
    defaults = inspect.signature(model.PIPELINE_CLASS.__call__).parameters
    return defaults["height"].default, defaults["width"].default


@dataclass(frozen=True)
class Evaluator:
    """FLOPs of an image and of a text, and the number of parameters, of a metric's network."""

    checkpoint: str
    parameters: int
    image: int
    text: int = 0


def evaluator(config: Mapping[str, Any]) -> Evaluator:
    """Count the network of a metric's yaml. InputError for a checkpoint whose architecture is not known here."""
    encoder = config.get("encoder", config)
    checkpoint, preprocess = encoder["checkpoint"], encoder.get("preprocess")
    try:
        with META:
            network, size, length = _network(checkpoint)
    except UNREADABLE as error:
        reason = _first_line(error)
        raise InputError(f"evaluator '{checkpoint}': its architecture is not known here ({reason})") from error
    if preprocess is not None:
        resize = preprocess["resize"]
        size = preprocess["crop"] or (resize[0] if isinstance(resize, list) else resize)
    length = encoder.get("padding", length)
    network.requires_grad_(False).eval()
    image = getattr(network, "vision_model", None) or getattr(network, "encode_image", network)
    text = getattr(network, "text_model", None) or getattr(network, "encode_text", None)
    weights = list(network.parameters())
    pixels, ids = torch.empty(1, 3, size, size, device=META), torch.zeros(1, length, dtype=torch.long, device=META)
    with torch.no_grad():
        of_text = 0 if text is None else measure(lambda: text(ids), weights).flops
        of_image = measure(lambda: image(pixels), weights).flops
    return Evaluator(checkpoint, sum(weight.numel() for weight in weights), of_image, of_text)


def _network(checkpoint: str) -> tuple[nn.Module, int, int]:
    """Return the network, the side of its images in pixels and the length of its texts in tokens."""
    import open_clip
    import timm
    from transformers import AutoConfig, AutoModel

    published = yaml.safe_load((Path(checkpoints.__file__).with_name("published.yaml")).read_text())
    if checkpoint in published:
        return AutoModel.from_config(AutoConfig.for_model(**published[checkpoint])), 0, 0
    folder = checkpoints.folder(checkpoint)
    file = None if folder is None else folder / "open_clip_config.json"
    clip = (
        json.loads(file.read_text())["model_cfg"] if file and file.is_file() else open_clip.get_model_config(checkpoint)
    )
    if clip is not None:
        text = {key: value for key, value in clip["text_cfg"].items() if key != "hf_tokenizer_name"}
        network = open_clip.CLIP(clip["embed_dim"], clip["vision_cfg"], text)
        return network, clip["vision_cfg"]["image_size"], text["context_length"]
    network = timm.create_model(checkpoints.resolve(checkpoint), pretrained=False)
    return network, timm.data.resolve_model_data_config(network)["input_size"][-1], 0


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
