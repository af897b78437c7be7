"""Count what a backbone and a metric's network cost, by running their own methods on the meta device.

Nothing is downloaded: a model that is not there is built from its published configuration.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from dti_repro.artifacts.files import read_yaml
from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import Conditioning, TokenVectors
from dti_repro.backbones.location import on_this_machine
from dti_repro.backbones.published import published_file
from dti_repro.backbones.untrained import write_checkpoint
from dti_repro.config import build
from dti_repro.cost.counting import META, Cost, GpuMode, measure
from dti_repro.errors import InputError
from dti_repro.metrics import catalogue

BYTES = {"float32": 4, "bfloat16": 2}
WORD = "<x>"


class ModelCost:
    """Count what a backbone costs for one training sample, one photo or one image, when it is first asked for.

    backbone: the plain `backbone` node of a configuration. precision: as trainer.precision; None where nothing is
    trained. InputError for a backbone that is no diffusers model, or is neither downloaded nor in backbones/published.
    """

    def __init__(self, backbone: Mapping[str, Any], precision: str | None = None) -> None:
        folder, file = on_this_machine(backbone), published_file(backbone["name"])
        if folder is None and file is None:
            raise InputError(
                f"backbone.path {backbone['path']} is not downloaded, and backbones/published has no "
                f"{backbone['name']}.yaml: download it, or give a checkpoint's folder"
            )
        diffusers.utils.logging.set_verbosity_error()
        settings = {key: value for key, value in backbone.items() if key != "generation"}
        with tempfile.TemporaryDirectory() as written, META:
            if folder is None:
                write_checkpoint(backbone, file, Path(written), weights=False)
            settings |= {"path": str(folder or written), "variant": None, "compile": False}
            self._model = model = build(settings, Backbone, "backbone").to(META)
        parts = {**model.text_encoders, "denoiser": model.denoiser, "vae": model.vae}
        self.parameters = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
        if folder is None:
            self.source = f"the published configuration of {backbone['name']}"
            self.stored_bytes = BYTES[read_yaml(file)["published_as"]] * sum(self.parameters.values())
        else:
            self.source = str(folder)
            self.stored_bytes = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
        self._autocast = precision == "bf16"
        self._weights = [*model.parameters(), *model.buffers()]
        self.weight_bytes = sum(weight.nbytes for weight in model.parameters())
        self.generation_dtype = backbone["dtype"]
        self.training_dtype = "bfloat16" if self._autocast else self.generation_dtype
        self.vae_dtype = str(model.vae.dtype).removeprefix("torch.")
        self.drawing_vae_dtype = str(model.drawing_vae.dtype).removeprefix("torch.")
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

    def sample_flops(self, by_layer: bool) -> int:
        """Return the FLOPs of one sample. by_layer: the prompt is encoded once for each cross-attention layer."""
        return self.denoiser.flops + self.text.flops * (self._model.spec.layers if by_layer else 1)

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
        encoded = sum(part.nbytes for part in (conditioning.hidden, conditioning.pooled) if part is not None)
        flops = prompt.flops + steps * passes * denoising.flops
        peak = max(prompt.peak, passes * (encoded + denoising.peak))  # what encodes the prompt is gone by then
        vae = self._model.drawing_vae
        latents = latents.to(vae.dtype)
        return Cost(flops, 0, peak), measure(lambda: vae.decode(latents, return_dict=False), self._weights)

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


def evaluator_cost(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint that a metric's yaml names, its number of parameters and its FLOPs for an image; texts cost
    less and are left out. InputError for a checkpoint whose architecture is not known here."""
    from dti_repro.metrics.networks import untrained_network  # imports open_clip and timm

    encoder = catalogue.encoder_of(config)
    checkpoint, preprocess = encoder["checkpoint"], encoder.get("preprocess")
    with catalogue.loading_weights(checkpoint), META:
        network, size = untrained_network(checkpoint)
    if preprocess is not None:
        resize = preprocess["resize"]
        size = preprocess["crop"] or (resize[0] if isinstance(resize, list) else resize)
    network.requires_grad_(False).eval()
    encode = getattr(network, "vision_model", None) or getattr(network, "encode_image", network)
    weights, pixels = list(network.parameters()), torch.empty(1, 3, size, size, device=META)
    flops = measure(lambda: encode(pixels), weights).flops
    return {"checkpoint": checkpoint, "parameters": sum(weight.numel() for weight in weights), "image": flops}
