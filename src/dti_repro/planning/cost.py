"""What one training sample, one photo and one picture cost on a backbone. A figure is counted when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dti_repro.backbones.backbone import Backbone, Conditioning
from dti_repro.backbones.diffusers_backbone import DiffusersBackbone
from dti_repro.configured import target
from dti_repro.errors import InputError
from dti_repro.planning.architecture import Architecture, read_architecture
from dti_repro.planning.counting import Cost, measure, recomputing
from dti_repro.planning.passes import condition, encode, own_size, predict
from dti_repro.planning.sketch import META, Sketch

PROBE = 256  # pixels; a multiple of all models' factors
LETTERS = 4  # of a token, about, in English


class ModelCost:
    """Of a configuration's `backbone` node (plain), trainer.precision, and pictures of this size (None: its own).

    What the trainer does: photos are encoded once; the only gradient is the one that leads to the vectors, so that
    frozen weights have none and whatever the vectors do not reach is not gone through backwards. Every figure is of
    one sample, photo, prompt or picture, and grows in proportion. InputError for a backbone that is not one of
    diffusers' models, or whose configs make none.
    """

    def __init__(
        self, backbone: Mapping[str, Any], precision: str, height: int | None = None, width: int | None = None
    ) -> None:
        kind = target(backbone["_target_"], Backbone)
        if not issubclass(kind, DiffusersBackbone):
            raise InputError(f"there is no plan for backbone '{backbone['name']}': it is none of diffusers' models")
        parts = [*kind.ENCODERS, kind.DENOISER, "vae"]
        architecture = read_architecture(backbone["name"], backbone["path"], backbone["revision"], parts)
        self.source = architecture.source
        self._sketch = Sketch.of(kind, architecture, backbone["dtype"])
        self._weights = self._sketch.weights()
        self._autocast = precision == "bf16"
        if backbone["checkpointing"]:
            self._sketch.denoiser.enable_gradient_checkpointing(recomputing(self._autocast))
        self.parameters = self._sketch.parameters()
        self.weight_bytes = self._sketch.weight_bytes()
        self.stored_bytes = _stored(architecture, parts, sum(self.parameters.values()))
        self.vector_bytes = sum(4 * e.embedding.table.embedding_dim for e in self._sketch.text_encoders.values())
        self.training_dtype = "bfloat16" if self._autocast else backbone["dtype"]
        self.drawing_dtype = backbone["dtype"]
        self.vae_dtype = str(_dtype(self._sketch.vae)).removeprefix("torch.")
        leads = kind.leads(**{key: value for key, value in backbone.items() if key != "_target_"})
        self._training_lead, self._drawing_lead = (_tokens(lead, architecture) for lead in leads)
        probe = self._latents(PROBE, PROBE)
        factor = PROBE // probe.shape[-1]
        own = own_size(self._sketch.denoiser, factor)
        self.size = (height, width) if height and width else own
        self.resolution: int = backbone["resolution"] or own[0]
        self._drawn = probe.new_empty(*probe.shape[:-2], *(side // factor for side in self.size))

    @cached_property
    def text(self) -> Cost:
        """A training sample's prompt, and back to its vectors."""

        def learn() -> Tensor:
            encoded = self._condition(learned=True)
            pooled = 0 if encoded.pooled is None else encoded.pooled.float().sum()
            return encoded.hidden.float().sum() + pooled

        return measure(learn, self._weights, self._autocast)

    @cached_property
    def denoiser(self) -> Cost:
        """A training sample's pass, and back to its conditioning."""
        with torch.no_grad():
            given = self._condition()
        pooled = None if given.pooled is None else given.pooled.requires_grad_()
        given = replace(given, hidden=given.hidden.requires_grad_(), pooled=pooled)
        latents = self._latents(self.resolution, self.resolution)
        return measure(lambda: predict(self._sketch.denoiser, latents, given).sum(), self._weights, self._autocast)

    @property
    def sample(self) -> Cost:
        """A training sample."""
        text, denoiser = self.text, self.denoiser
        return Cost(text.forward + denoiser.forward, text.backward + denoiser.backward, text.peak + denoiser.peak)

    @cached_property
    def photo(self) -> Cost:
        """A photo, encoded once a training."""
        return measure(lambda: self._latents(self.resolution, self.resolution), self._weights)

    @cached_property
    def prompt(self) -> Cost:
        """A prompt that is drawn; a batch has an empty one besides, which is not counted."""
        return self._drawing(lambda: self._condition(drawn=True))

    @cached_property
    def denoising(self) -> Cost:
        """One pass over a picture's latents."""
        with torch.no_grad():
            given = self._condition()
        return self._drawing(lambda: predict(self._sketch.denoiser, self._drawn, given))

    @cached_property
    def decoding(self) -> Cost:
        """From latents to a picture."""
        latents = self._drawn.to(_dtype(self._sketch.vae))
        return self._drawing(lambda: self._sketch.vae.decode(latents, return_dict=False))

    def latent_picture(self, steps: int, guidance: float) -> int:
        """FLOPs of a picture before it is decoded; with guidance each step is two passes."""
        passes = 2 if guidance > 1 else 1
        return self.prompt.flops + passes * steps * self.denoising.flops

    def picture(self, steps: int, guidance: float) -> int:
        """FLOPs."""
        return self.latent_picture(steps, guidance) + self.decoding.flops

    def picture_peak(self, guidance: float) -> int:
        """Bytes besides the weights for each picture of a batch."""
        passes = 2 if guidance > 1 else 1
        return max(self.prompt.peak + passes * self.denoising.peak, self.decoding.peak)

    def _condition(self, learned: bool = False, drawn: bool = False) -> Conditioning:
        lead = self._drawing_lead if drawn else self._training_lead
        return condition(self._sketch.denoiser, self._sketch, learned, lead)

    def _latents(self, height: int, width: int) -> Tensor:
        """As the denoiser takes them."""
        pixels = torch.empty(1, 3, height, width, dtype=_dtype(self._sketch.vae), device=META)
        with torch.no_grad():
            return encode(self._sketch.vae, pixels).to(_dtype(self._sketch.denoiser))

    def _drawing(self, run: Any) -> Cost:
        with torch.no_grad():
            return measure(run, self._weights)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _tokens(lead: str, architecture: Architecture) -> int:
    """By which a text before every prompt makes it longer, as `PlaceholderTokenizer` counts; about as many where the
    tokenizer is not here."""
    if not lead:
        return 0
    if architecture.folder is None:
        return len(lead) // LETTERS
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(architecture.folder / "tokenizer", local_files_only=True)
    return len(tokenizer(lead).input_ids) - 2


def _stored(architecture: Architecture, parts: list[str], numbers: int) -> int:
    if architecture.folder is None:
        return numbers * architecture.stored
    files = [file for part in parts for file in (architecture.folder / part).glob("*.safetensors")]
    return sum(file.stat().st_size for file in files)
