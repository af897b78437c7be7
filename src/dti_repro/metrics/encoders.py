"""Frozen evaluators behind two calls: ``images(list) -> features`` and ``texts(list) -> features``.

Each is a function of a checkpoint's name and a preprocessing, so that the real checkpoints and the toybox's
evaluators differ by a yaml only. Loading is cached: metrics that name the same weights share one model.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dti_repro.errors import InputError
from dti_repro.metrics import checkpoints
from dti_repro.metrics.preprocess import Preprocess, stack

Images = Sequence[Image.Image]
_CHUNK = 64  # images per forward pass: bounds memory, changes nothing else


class ImageEncoder(nn.Module, ABC):
    """A frozen network over images. ``preprocess`` maps a PIL image to (3, height, width)."""

    def __init__(self, network: nn.Module, preprocess: Callable[[Image.Image], Tensor]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preprocess = preprocess
        self._last: tuple[Images, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """(images, 3, height, width) to (images, features)."""

    @torch.inference_mode()
    def images(self, images: Images) -> Tensor:
        """(images, features), float32, on the CPU.

        The result for the last list is kept, as several metrics in turn read the same list object with one
        encoder.
        """
        if self._last is None or self._last[0] is not images:
            chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
            features = [self.encode(stack(c, self.preprocess).to(self.device)).float().cpu() for c in chunks]
            self._last = (images, torch.cat(features))
        return self._last[1]


class TimmEncoder(ImageEncoder):
    """timm's own output: the pooled embedding where the checkpoint has no classes, else the class logits."""

    @classmethod
    def load(cls, checkpoint: str, preprocess: Mapping | None = None) -> TimmEncoder:
        """Load a timm name, ``local-dir:<folder>`` or ``toybox:<name>``; preprocess None takes the checkpoint's own."""
        return _timm(checkpoint, _preprocess(preprocess))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


class Dinov2Encoder(ImageEncoder):
    """The CLS token after the final LayerNorm of transformers' Dinov2 (timm's default of 518 px resizes position
    embeddings differently)."""

    @classmethod
    def load(cls, checkpoint: str, preprocess: Mapping) -> Dinov2Encoder:
        """Load a name or a folder that transformers takes."""
        return _dinov2(checkpoint, _preprocess(preprocess))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).last_hidden_state[:, 0]


class ClipEncoder(ImageEncoder):
    """An open_clip model's two projections, not normalised."""

    def __init__(self, network: nn.Module, preprocess: Callable[[Image.Image], Tensor], tokenizer: Any) -> None:
        super().__init__(network, preprocess)
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, checkpoint: str, preprocess: Mapping | None = None, pretrained: str | None = None) -> ClipEncoder:
        """Load an open_clip architecture and tag (``ViT-B-32-quickgelu``, ``openai``), or one folder as TimmEncoder."""
        return _clip(checkpoint, _preprocess(preprocess), pretrained)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, features), float32, on the CPU."""
        return self.network.encode_text(self.tokenizer(list(texts)).to(self.device)).float().cpu()


class SiglipEncoder(ImageEncoder):
    """A transformers SiglipModel; texts are padded to ``padding`` tokens, as it was trained."""

    def __init__(self, network: nn.Module, preprocess: Preprocess, tokenizer: Any, padding: int) -> None:
        super().__init__(network, preprocess)
        self.tokenizer, self.padding = tokenizer, padding

    @classmethod
    def load(cls, checkpoint: str, preprocess: Mapping, padding: int = 64) -> SiglipEncoder:
        """Load a name or a folder that transformers takes; the real tokenizer needs the sentencepiece package."""
        return _siglip(checkpoint, _preprocess(preprocess), padding)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.vision_model(pixel_values=pixels).pooler_output

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, features), float32, on the CPU."""
        ids = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.padding, return_tensors="pt"
        )["input_ids"]
        return self.network.text_model(input_ids=ids.to(self.device)).pooler_output.float().cpu()

    @property
    def scale_and_bias(self) -> tuple[float, float]:
        """The learned temperature (already exponentiated) and bias of the sigmoid loss."""
        return float(self.network.logit_scale.exp()), float(self.network.logit_bias)


def reader_heads(checkpoint: str) -> dict[str, list[str]]:
    """``heads.json`` beside a reader's weights: label names by attribute, in the order of the concatenated
    logits."""
    path = checkpoints.folder(checkpoint)
    if path is None or not (path / "heads.json").is_file():
        raise InputError(f"attribute reader '{checkpoint}': there is no heads.json beside its weights")
    return json.loads((path / "heads.json").read_text())


def _preprocess(config: Mapping | None) -> Preprocess | None:
    return None if config is None else Preprocess(**config)


@lru_cache
def _timm(checkpoint: str, preprocess: Preprocess | None) -> TimmEncoder:
    import timm

    with checkpoints.one_clear_line(checkpoint):
        network = timm.create_model(checkpoints.resolve(checkpoint), pretrained=True)
    if preprocess is None:
        preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return TimmEncoder(network, preprocess)


@lru_cache
def _dinov2(checkpoint: str, preprocess: Preprocess) -> Dinov2Encoder:
    from transformers import Dinov2Model

    with checkpoints.one_clear_line(checkpoint):
        network = Dinov2Model.from_pretrained(checkpoint, dtype=torch.float32)
    return Dinov2Encoder(network, preprocess)


@lru_cache
def _clip(checkpoint: str, preprocess: Preprocess | None, pretrained: str | None) -> ClipEncoder:
    import open_clip

    with checkpoints.one_clear_line(checkpoint):
        name = checkpoints.resolve(checkpoint)
        network, own = open_clip.create_model_from_pretrained(name, pretrained=pretrained, precision="fp32")
        tokenizer = open_clip.get_tokenizer(name)
    return ClipEncoder(network, preprocess or own, tokenizer)


@lru_cache
def _siglip(checkpoint: str, preprocess: Preprocess, padding: int) -> SiglipEncoder:
    from transformers import AutoTokenizer, SiglipModel

    with checkpoints.one_clear_line(checkpoint):
        network = SiglipModel.from_pretrained(checkpoint, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return SiglipEncoder(network, preprocess, tokenizer, padding)
