"""What every model in diffusers' format shares: text encoders that learned words enter, a VAE, a denoiser, and the
library's own pipeline around them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from PIL import Image
from torch import Tensor, nn

from dti_repro.backbones.base import (
    Asked,
    Backbone,
    BackboneSpec,
    Conditioning,
    EncoderSpec,
    InitializerEmbedding,
    Tokens,
    TokenVectors,
)
from dti_repro.backbones.checkpoint import check_kind, load_weights, locate, require
from dti_repro.backbones.samplers import check_steps, make_sampler, own_scheduler, scheduler_class
from dti_repro.backbones.text_encoder import Part, TextEncoder
from dti_repro.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class FrozenSettings(TypedDict, total=False):
    """How the frozen weights are read and run, as keys of `DiffusersBackbone`."""

    dtype: str
    revision: str
    checkpointing: bool
    compile: bool


class DiffusersBackbone(Backbone):
    """Loaded from a folder or the Hub; subclasses say how prompts become conditioning and what the loss is.

    name: its folder below `runs`. path: the checkpoint's folder or id on the Hub, None for the packaged toybox.
    resolution: pixels of a training image, None for the model's own. dtype: of the frozen weights, float32 or
    bfloat16; what is learned stays float32. revision: of a Hub id. checkpointing: keep the denoiser's activations at
    the borders of its blocks only and compute the others again on the way back, which saves memory and costs a
    third of the time. compile: run the denoiser through torch.compile. Within `torch.device("meta")` it has shapes and
    no weights.
    """

    ENCODERS: ClassVar[Mapping[str, Part]]
    DENOISER_CLASS: ClassVar[type[ModelMixin]]
    VAE_CLASS: ClassVar[type[ModelMixin]]
    VAE_DTYPE: ClassVar[torch.dtype | None] = None
    """None: as the rest."""
    SIDE: ClassVar[int] = 8
    """Of what a picture's sides are multiples, in pixels."""

    def __init__(
        self,
        name: str,
        path: str | None,
        resolution: int | None,
        dtype: str = "float32",
        revision: str = "main",
        checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if resolution is not None and resolution % self.SIDE:
            raise InputError(f"backbone.resolution is {resolution}: a multiple of {self.SIDE} is needed")
        self.folder = locate(path, revision)
        check_kind(self.folder, *(base.__name__ for base in type(self).__mro__))
        tokenizers = (part.tokenizer for part in self.ENCODERS.values())
        require(self.folder, [*self.ENCODERS, *tokenizers, self.DENOISER, "vae"])
        self.text_encoders = nn.ModuleDict(
            {encoder: TextEncoder(self.folder, encoder, part, DTYPES[dtype]) for encoder, part in self.ENCODERS.items()}
        )
        vae_dtype = self.VAE_DTYPE or DTYPES[dtype]
        self.vae = load_weights(self.VAE_CLASS, self.folder, "vae", torch_dtype=vae_dtype)
        self.denoiser = load_weights(self.DENOISER_CLASS, self.folder, self.DENOISER, torch_dtype=DTYPES[dtype])
        with torch.device("cpu"):  # schedulers compute with values, which the meta device has not
            self.generation_scheduler = own_scheduler(self.folder)
        self.requires_grad_(False).eval()
        if checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        if compile:
            self.denoiser.compile()
        attentions = sum(module.endswith("attn2") for module, _ in self.denoiser.named_modules())
        self.spec = BackboneSpec(
            name=name,
            encoders={encoder: EncoderSpec.of(module.table) for encoder, module in self.text_encoders.items()},
            cross_attention_layers=attentions,
            resolution=resolution or self._own_resolution(),
            timesteps=self.generation_scheduler.config.num_train_timesteps,
        )
        self.training_lead = self.generation_lead = ""

    @classmethod
    def leads(cls, **settings: Any) -> tuple[str, str]:
        """What the text encoder reads before every prompt, in training and in generation, with these settings of
        its constructor."""
        return "", ""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels per latent, along a side."""

    @abstractmethod
    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning: ...

    @abstractmethod
    def _pipeline(self, scheduler: SchedulerMixin) -> DiffusionPipeline:
        """diffusers' pipeline around our parts."""

    @classmethod
    @abstractmethod
    def _own_options(cls, own: SchedulerMixin, chosen: type[SchedulerMixin]) -> dict[str, Any]:
        """What the chosen scheduler is told besides the configuration of the checkpoint's own. InputError for one that
        this model cannot be drawn with."""

    @abstractmethod
    def _pictures(self, pipeline: DiffusionPipeline, **arguments: Any) -> np.ndarray:
        """Call the pipeline: (pictures, height, width, 3) in [0, 1]."""

    def _own_resolution(self) -> int:
        """Pixels of a side that the model was made for."""
        return self.denoiser.config.sample_size * self.factor

    @staticmethod
    def _clean(text: str) -> str:
        """A prompt as the pipeline changes it before it is tokenized."""
        return text

    def _reading(self, tokens: Tokens) -> dict[str, Any]:
        """What the text encoders take besides ids."""
        return {}

    def _unconditional(
        self, negative_prompt: str, placeholders: Mapping[str, int], vectors: TokenVectors | None
    ) -> Conditioning:
        return self.encode_text(self._tokenize([negative_prompt], placeholders), vectors)

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def start(self, concept: str, initializer: str, seed: int) -> InitializerEmbedding:
        rows = {name: encoder.rows(initializer) for name, encoder in self.text_encoders.items()}
        word = "<initializer>"  # stands where the words would, which says at which positions their states are
        alone = self._tokenize([word], {word: max(map(len, rows.values()))})
        with torch.no_grad():
            outputs = self._outputs(alone, {name: own.to(self.device)[None, None] for name, own in rows.items()})
        states = {
            name: output.last_hidden_state[0, (alone.positions[name][0] >= 0).to(self.device)].float().clone()
            for name, output in outputs.items()
        }
        return InitializerEmbedding(concept, seed, rows, states)

    def tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int]) -> Tokens:
        return self._tokenize(prompts, placeholders, self.training_lead)

    def _tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int], prefix: str = "") -> Tokens:
        """prefix: a text that the model reads before every prompt."""
        known = self._known(placeholders)
        texts = [self._clean(prompt) for prompt in prompts]
        both = {name: encoder.tokenizer(texts, known, prefix) for name, encoder in self.text_encoders.items()}
        return Tokens({k: ids for k, (ids, _) in both.items()}, {k: positions for k, (_, positions) in both.items()})

    @classmethod
    def _known(cls, placeholders: Mapping[str, int]) -> dict[str, int]:
        """Placeholders as they stand in a cleaned prompt. InputError if two of them are the same there."""
        known = {cls._clean(placeholder): count for placeholder, count in placeholders.items()}
        if len(known) < len(placeholders):
            raise InputError(f"placeholders {', '.join(placeholders)} are the same to this model: rename one")
        return known

    def _outputs(self, tokens: Tokens, vectors: TokenVectors | None, **options: Any) -> dict[str, Any]:
        """Each text encoder's own output."""
        tokens = tokens.to(self.device)
        options = {**self._reading(tokens), **options}
        learned = {} if vectors is None else {name: _of_all_layers(rows) for name, rows in vectors.items()}
        return {
            name: encoder(tokens.ids[name], tokens.positions[name], learned.get(name), **options)
            for name, encoder in self.text_encoders.items()
        }

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Mapping[str, Tensor]],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
        sampler: str = "default",
        sampler_options: Mapping[str, Any] = MappingProxyType({}),
        height: int | None = None,
        width: int | None = None,
    ) -> list[Image.Image]:
        counts = {placeholder: len(next(iter(rows.values()))) for placeholder, rows in vectors.items()}
        tokens = self._tokenize(prompts, counts, self.generation_lead)
        conditional = self.encode_text(tokens, self._learned(vectors, len(prompts)) if vectors else None)
        unconditional = self._unconditional(negative_prompt, counts, self._learned(vectors, 1) if vectors else None)
        pipeline = self._pipeline(self._sampler(self.generation_scheduler, sampler, sampler_options))
        pipeline.set_progress_bar_config(disable=True)
        pictures = self._pictures(
            pipeline,
            **_embeds("", conditional, len(prompts)),
            **_embeds("negative_", unconditional, len(prompts)),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=height,
            width=width,
            output_type="np",
        )
        for prompt, seed, picture in zip(prompts, seeds, pictures, strict=True):
            if not np.isfinite(picture).all():
                raise InputError(
                    f"prompt {prompt!r}, seed {seed}: the image holds numbers that are not finite, and is not saved; "
                    "try another sampler, a smaller guidance or backbone.dtype=float32"
                )
        return DiffusionPipeline.numpy_to_pil(pictures)

    @classmethod
    def check_drawing(
        cls,
        folder: Path,
        *,
        steps: int,
        sampler: str,
        sampler_options: Mapping[str, Any],
        height: int | None,
        width: int | None,
    ) -> None:
        for key, side in (("height", height), ("width", width)):
            if side is not None and side % cls.SIDE:
                raise InputError(f"{key}={side}: this backbone draws multiples of {cls.SIDE} pixels")
        check_steps(cls._sampler(own_scheduler(folder), sampler, sampler_options), steps)

    @classmethod
    def lost_words(cls, folder: Path, asked: Sequence[Asked], **settings: Any) -> dict[str, str]:
        tokenizers = [part.load_tokenizer(folder) for part in cls.ENCODERS.values()]
        prefix = cls.leads(**settings)[1]
        lost: dict[str, str] = {}
        for one in asked:
            known = cls._known(one.placeholders)
            for prompts, before in ((one.prompts, prefix), ([one.negative_prompt], "")):
                as_given = {cls._clean(prompt): prompt for prompt in prompts}
                for tokenizer in tokenizers:
                    found = tokenizer.lost(list(as_given), known, before)
                    lost |= {as_given[text]: words for text, words in found.items()}
        return lost

    @classmethod
    def _sampler(cls, own: SchedulerMixin, name: str, options: Mapping[str, Any]) -> SchedulerMixin:
        """The scheduler to draw with, own being the checkpoint's. InputError for options that it does not take."""
        chosen = type(own) if name == "default" else scheduler_class(name)
        return make_sampler(own, chosen, {**cls._own_options(own, chosen), **options})

    def _learned(self, vectors: Mapping[str, Mapping[str, Tensor]], prompts: int) -> TokenVectors:
        rows = {name: torch.cat([own[name] for own in vectors.values()]) for name in self.text_encoders}
        return {
            name: own.to(self.device, torch.float32)[None, None].expand(prompts, -1, -1, -1)
            for name, own in rows.items()
        }


def _of_all_layers(rows: Tensor) -> Tensor:
    """(batch, layers, vectors, dim) -> (batch, vectors, dim). InputError for vectors that differ by layer."""
    if rows.shape[1] != 1:
        raise InputError(
            f"method: it has other vectors for each of {rows.shape[1]} layers, and this backbone encodes a prompt once "
            "for all layers: choose a method with the same vectors for all"
        )
    return rows[:, 0]


def _embeds(prefix: str, conditioning: Conditioning, prompts: int) -> dict[str, Tensor]:
    """Conditioning as a pipeline's arguments, one row broadcast to all prompts."""
    embeds = {f"{prefix}prompt_embeds": conditioning.hidden.expand(prompts, -1, -1)}
    if conditioning.pooled is not None:
        embeds[f"{prefix}pooled_prompt_embeds"] = conditioning.pooled.expand(prompts, -1)
    if conditioning.mask is not None:
        embeds[f"{prefix}prompt_attention_mask"] = conditioning.mask.expand(prompts, -1)
    return embeds
