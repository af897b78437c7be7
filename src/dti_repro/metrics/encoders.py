"""Frozen evaluators with two methods: `images(list) -> features` and `texts(list) -> features`.

Each is a function of a checkpoint's name and a preprocessing, so that the real checkpoints and the toybox's evaluators
differ by a yaml only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from dti_repro.errors import InputError
from dti_repro.metrics.catalogue import loading_weights, resolve_weights, weights_file, weights_folder

BATCH = 64  # images of one forward pass: bounds memory, changes nothing else
CPU_BATCH = 8  # a processor's cache holds the activations of a few images: a fifth less time than with 32


def preprocessing(keys: Mapping[str, Any]) -> v2.Compose:
    """Return the transform of these keys: a PIL image in RGB -> (3, height, width), float32.

    resize: the shorter side in pixels afterwards, or [height, width] to give up proportions. crop: side of the centre
    crop in pixels; null keeps everything. mean, std: for each channel, in units of the [0, 1] pixel range.
    interpolation: a name of torchvision's InterpolationMode, with antialiasing. InputError for other keys or values.
    """
    try:
        return _transform(**keys)
    except (TypeError, ValueError) as error:
        raise InputError(f"metric preprocess: {error}") from error


def _transform(
    resize: int | Sequence[int],
    crop: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
) -> v2.Compose:
    steps = [v2.Resize(resize, interpolation=v2.InterpolationMode(interpolation), antialias=True)]
    if crop is not None:
        steps.append(v2.CenterCrop(crop))
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def _cached(load: Callable[..., Any]) -> classmethod:
    """Cache what a `load` returns: metrics that name the same weights and preprocessing share one model."""
    encoders: dict[str, Any] = {}

    @wraps(load)
    def load_once(*arguments: Any, **keys: Any) -> Any:
        key = repr((arguments, sorted(keys.items())))
        if key not in encoders:
            encoders[key] = load(*arguments, **keys)
        return encoders[key]

    return classmethod(load_once)


class ImageEncoder(nn.Module, ABC):
    """A frozen network over images. `preprocess` maps a PIL image to (3, height, width)."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preprocess, self.tokenizer = preprocess, tokenizer
        self._last: tuple[Sequence[Image.Image], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (images, 3, height, width) as (images, features)."""

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return (images, features), float32, on the CPU.

        The result for the last list is kept, as several metrics in turn read the same list with one encoder.
        """
        if self._last is None or self._last[0] is not images:
            features = []
            batch = CPU_BATCH if self.device.type == "cpu" else BATCH
            for i in range(0, len(images), batch):
                pixels = torch.stack([self.preprocess(image) for image in images[i : i + batch]])
                features.append(self.encode(pixels.to(self.device)).float().cpu())
            self._last = (images, torch.cat(features))
        return self._last[1]


class TimmEncoder(ImageEncoder):
    """timm's own output: the pooled embedding where the checkpoint has no classes, else the class logits."""

    @_cached
    def load(cls, checkpoint: str, preprocess: Mapping | None = None) -> TimmEncoder:
        """Load a timm name, `local-dir:<folder>` or `toybox:<name>`; preprocess None takes the checkpoint's own."""
        import timm

        with loading_weights(checkpoint):
            network = timm.create_model(resolve_weights(checkpoint), pretrained=True)
        default = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        return cls(network, default if preprocess is None else preprocessing(preprocess))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


class Dinov2Encoder(ImageEncoder):
    """The CLS token after the final LayerNorm of transformers' Dinov2 (timm's default of 518 px resizes position
    embeddings differently)."""

    @_cached
    def load(cls, checkpoint: str, preprocess: Mapping) -> Dinov2Encoder:
        """Load a name that transformers takes, or local-dir:<folder>."""
        from transformers import Dinov2Model

        with loading_weights(checkpoint):
            place = str(weights_folder(checkpoint) or checkpoint)
            network = Dinov2Model.from_pretrained(place, dtype=torch.float32)
        return cls(network, preprocessing(preprocess))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).last_hidden_state[:, 0]


class ClipEncoder(ImageEncoder):
    """An open_clip model's two projections, not normalised."""

    @_cached
    def load(cls, checkpoint: str, preprocess: Mapping | None = None, pretrained: str | None = None) -> ClipEncoder:
        """Load an open_clip architecture and its weights, a tag or a file (`ViT-B-32-quickgelu`, `openai`), or one
        folder as TimmEncoder."""
        import open_clip

        with loading_weights(f"{checkpoint} {pretrained or ''}".strip()):
            name, weights = resolve_weights(checkpoint), weights_file(pretrained)
            network, default = open_clip.create_model_from_pretrained(name, pretrained=weights, precision="fp32")
            tokenizer = open_clip.get_tokenizer(name)
        return cls(network, default if preprocess is None else preprocessing(preprocess), tokenizer)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return (texts, features), float32, on the CPU."""
        return self.network.encode_text(self.tokenizer(list(texts)).to(self.device)).float().cpu()


class SiglipEncoder(ImageEncoder):
    """A transformers SiglipModel; texts are padded to `padding` tokens, as it was trained."""

    @_cached
    def load(cls, checkpoint: str, preprocess: Mapping, padding: int = 64) -> SiglipEncoder:
        """Load a name that transformers takes, or local-dir:<folder>."""
        from transformers import AutoTokenizer, SiglipModel

        with loading_weights(checkpoint):
            place = str(weights_folder(checkpoint) or checkpoint)
            network = SiglipModel.from_pretrained(place, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        length = {"padding": "max_length", "truncation": True, "max_length": padding}
        return cls(network, preprocessing(preprocess), partial(tokenizer, return_tensors="pt", **length))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.vision_model(pixel_values=pixels).pooler_output

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return (texts, features), float32, on the CPU."""
        ids = self.tokenizer(list(texts))["input_ids"].to(self.device)
        return self.network.text_model(input_ids=ids).pooler_output.float().cpu()


class DreamSimEncoder(ImageEncoder):
    """DreamSim's embedding (Fu et al. 2023), of unit norm and mean 0: its distance is 1 - cosine."""

    @_cached
    def load(cls, checkpoint: str, variant: Literal["open_clip_vitb32", "clip_vitb32"]) -> DreamSimEncoder:
        """Load the published zip by its address, through the dreamsim package, or local-dir:<folder> with its content.

        The variants with DINO run code that torch.hub fetches, and that with SynCLR a pickle: neither is offered.
        """
        with loading_weights(checkpoint):
            from dreamsim import dreamsim
            from dreamsim.config import dreamsim_weights

            folder = weights_folder(checkpoint)
            if folder is None and checkpoint != dreamsim_weights[variant]:
                raise InputError(f"checkpoint {checkpoint}: give {dreamsim_weights[variant]}, or local-dir:<folder>")
            cache = folder or Path(torch.hub.get_dir()) / "dreamsim"
            cache.mkdir(parents=True, exist_ok=True)
            network, preprocess = dreamsim(device="cpu", cache_dir=str(cache), dreamsim_type=variant)
        return cls(network, lambda image: preprocess(image)[0])

    def encode(self, pixels: Tensor) -> Tensor:
        for extractor in self.network.extractor_list:
            extractor.device = self.device  # where the package puts its projection
        return self.network.embed(pixels)
