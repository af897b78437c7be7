"""A frozen text-to-image model in diffusers' format: text encoders that learned vectors enter, a VAE and a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from dti_repro.backbones.base import (
    BackboneSpec,
    Conditioning,
    EncoderSpec,
    InitializerEmbedding,
    LatentDistribution,
    PromptGroup,
    Support,
    Tokens,
    TokenVectors,
)
from dti_repro.backbones.checkpoint import check_kind, load_weights, require
from dti_repro.backbones.location import locate
from dti_repro.backbones.samplers import checkpoint_scheduler
from dti_repro.backbones.text_encoder import EncoderConfig, TextEncoder
from dti_repro.errors import InputError


class FrozenSettings(TypedDict, total=False):
    """Keys of `FrozenModel` that say how the frozen weights are read and run."""

    dtype: str
    revision: str
    checkpointing: bool
    compile: bool
    variant: str | None


class FrozenModel(nn.Module, ABC):
    """A frozen model: no weight requires or receives a gradient; gradients pass through to the learned vectors.
    Subclasses say how prompts become conditioning and what the loss is.

    name: its folder below `runs`. path: the checkpoint's folder or id on the Hub, None for the packaged toybox.
    resolution: pixels of a training image, None for the model's own. dtype: of the frozen weights, float32 or
    bfloat16; what is learned stays float32. revision: of a Hub id. checkpointing: keep only the activations between the
    denoiser's blocks and compute the others again in the backward pass, which saves memory and takes a third more time.
    compile: run the denoiser through torch.compile, anew for each batch and image size; after eight of them (torch's
    limit) it runs uncompiled. variant: of the weights' files, such as fp16. Within
    `torch.device("meta")` it has shapes and no weights.
    """

    DENOISER: ClassVar[str]
    """The denoiser's folder in the checkpoint, and its name in diffusers' pipeline."""
    SIDE: ClassVar[int] = 8
    """The sides of an image are multiples of this number of pixels."""
    SUPPORTS: ClassVar[frozenset[Support]] = frozenset()
    """What methods may ask of it."""
    pads_directions: bool = False
    """Whether zero vectors stand before the training prompts of methods that learn unit directions."""
    ENCODERS: ClassVar[Mapping[str, EncoderConfig]]
    DENOISER_CLASS: ClassVar[type[ModelMixin]]
    VAE_CLASS: ClassVar[type[ModelMixin]]
    VAE_DTYPE: ClassVar[torch.dtype | None] = None  # None: `dtype`

    def __init__(
        self,
        name: str,
        path: str | None,
        resolution: int | None,
        dtype: str = "float32",
        revision: str = "main",
        checkpointing: bool = False,
        compile: bool = False,
        variant: str | None = None,
    ) -> None:
        super().__init__()
        if resolution is not None and resolution % self.SIDE:
            raise InputError(f"backbone.resolution is {resolution}: a multiple of {self.SIDE} is needed")
        self.folder = locate(path, revision, variant)
        frozen: torch.dtype = getattr(torch, dtype)
        self.text_encoders = nn.ModuleDict(self.load_text_encoders(self.folder, frozen, (self.DENOISER, "vae")))
        self.vae = load_weights(self.VAE_CLASS, self.folder, "vae", self.VAE_DTYPE or frozen)
        self.drawing_vae = self.vae  # a subclass may draw with another precision than it encodes photos with
        self.denoiser = load_weights(self.DENOISER_CLASS, self.folder, self.DENOISER, frozen)
        with torch.device("cpu"):  # schedulers compute with values, which the meta device does not have
            self.generation_scheduler = checkpoint_scheduler(self.folder)
        self.requires_grad_(False).eval()
        if checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        if compile:
            self.denoiser.compile(dynamic=False)  # a second batch size would make shapes symbols, which can fail
        self.spec = BackboneSpec(
            name=name,
            encoders={
                encoder: EncoderSpec.of(module.table, module.tokenizer.tokenizer.eos_token_id)
                for encoder, module in self.text_encoders.items()
            },
            resolution=resolution or self._model_resolution(),
            timesteps=self.generation_scheduler.config.num_train_timesteps,
        )
        self.training_prefix = self.generation_prefix = ""

    @classmethod
    def load_text_encoders(cls, folder: Path, dtype: torch.dtype, others: Sequence[str] = ()) -> dict[str, TextEncoder]:
        """Return the text encoders of the checkpoint in this folder, and read nothing else of it. InputError, before
        gigabytes are read, if another backbone is for it, or if it lacks one of these or of the `others`, its parts."""
        check_kind(folder, *(base.__name__ for base in cls.__mro__))
        require(folder, [*cls.ENCODERS, *(config.tokenizer for config in cls.ENCODERS.values()), *others])
        return {name: TextEncoder(folder, name, config, dtype) for name, config in cls.ENCODERS.items()}

    @classmethod
    def prompt_prefixes(cls, **settings: Any) -> tuple[str, str]:
        """Return the texts that the text encoder reads before every prompt in training and in generation, with these
        settings of the constructor."""
        return "", ""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels per latent, along a side."""

    @abstractmethod
    def encode_text(self, tokens: Tokens, vectors: TokenVectors | None = None) -> Conditioning:
        """Encode tokens, with the learned vectors (batch or 1, layers, vectors, dim) at their positions. vectors=None:
        there are no positions."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> LatentDistribution:
        """Encode pixels (images, 3, height, width) in [-1, 1]."""

    @abstractmethod
    def _predict(self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Return the denoiser's prediction (noise, v or velocity) from noisy latents, and what it should be."""

    def loss(
        self, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning, weight: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared error of the model's prediction in float32, one value per sample: (batch,). weight:
        as in weighted_mean, None for the plain mean."""
        predicted, target = self._predict(latents, noise, t, conditioning)
        error = (predicted.float() - target.float()).square()
        return error.mean(dim=tuple(range(1, error.ndim))) if weight is None else weighted_mean(error, weight)

    def attention_maps(self) -> AbstractContextManager[list[Tensor]]:
        """Record, while the context is open, the shares (batch, heads, queries, length) that each cross-attention layer
        gives to the tokens, in the order of the calls. For backbones that support `attention`."""
        raise NotImplementedError

    @staticmethod
    def _clean(text: str) -> str:
        """Return a prompt as the pipeline changes it before it is tokenized."""
        return text

    def _encoder_options(self, tokens: Tokens) -> dict[str, Any]:
        """Return what the text encoders take besides ids."""
        return {}

    def _model_resolution(self) -> int:
        """Return the side in pixels of the images that the model was trained on."""
        return self.denoiser.config.sample_size * self.factor

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def embed_initializer(self, concept: str, initializer: str, seed: int) -> InitializerEmbedding:
        """Return rows and hidden states of the initializer's tokens. InputError for a word that is not in the
        vocabulary."""
        rows = {name: encoder.rows(initializer) for name, encoder in self.text_encoders.items()}
        placeholder = "<initializer>"  # its positions are those of the initializer's tokens
        tokens = self.tokenize([placeholder], {placeholder: max(map(len, rows.values()))}, "")
        with torch.no_grad():
            outputs = self._outputs(tokens, {name: word.to(self.device)[None, None] for name, word in rows.items()})
        states = {
            name: output.last_hidden_state[0, (tokens.positions[name][0] >= 0).to(self.device)].float()
            for name, output in outputs.items()
        }
        return InitializerEmbedding(concept, seed, rows, states)

    def tokenize(self, prompts: Sequence[str], placeholders: Mapping[str, int], prefix: str | None = None) -> Tokens:
        """Tokenize prompts that may contain placeholders ("a photo of a <dog>"); the Tokens are on the CPU.

        placeholders: placeholder -> number of its vectors. Positions number the vectors of all placeholders in the
        mapping's order: with {"<dog>": 2, "<mug>": 1} the mug reads position 2. prefix: a text before every prompt;
        None: the one of training. InputError for a prompt that is so long that a placeholder is cut off.
        """
        prefix = self.training_prefix if prefix is None else prefix
        counts = self._clean_placeholders(placeholders)
        texts = [self._clean(prompt) for prompt in prompts]
        ids, positions = {}, {}
        for name, encoder in self.text_encoders.items():
            ids[name], positions[name] = encoder.tokenizer(texts, counts, prefix)
        return Tokens(ids, positions)

    @classmethod
    def _clean_placeholders(cls, placeholders: Mapping[str, int]) -> dict[str, int]:
        """Return placeholders as they are in a cleaned prompt. InputError if two of them are the same there."""
        cleaned = {cls._clean(placeholder): count for placeholder, count in placeholders.items()}
        if len(cleaned) < len(placeholders):
            raise InputError(f"placeholders {', '.join(placeholders)} are the same to this model: rename one")
        return cleaned

    def _outputs(self, tokens: Tokens, vectors: TokenVectors | None, **options: Any) -> dict[str, Any]:
        """Return the output of each text encoder. InputError for vectors that differ by layer."""
        tokens = tokens.to(self.device)
        options = {**self._encoder_options(tokens), **options}
        learned = {}
        for name, rows in (vectors or {}).items():
            if rows.shape[1] != 1:
                raise InputError(
                    f"method: it has other vectors for each of {rows.shape[1]} layers, and this backbone encodes a "
                    "prompt once for all layers: choose a method with the same vectors for all"
                )
            learned[name] = rows[:, 0]
        return {
            name: encoder(tokens.ids[name], tokens.positions[name], learned.get(name), **options)
            for name, encoder in self.text_encoders.items()
        }

    @classmethod
    def truncated_words(cls, folder: Path, groups: Sequence[PromptGroup], **settings: Any) -> dict[str, str]:
        """Return prompt -> the words at its end that the checkpoint in this folder does not read, as the context has no
        room for them. Prompts that fit are left out. Read no weights. settings: of the constructor.

        InputError for a prompt that loses a placeholder, or has a word <name> that is none of the placeholders.
        """
        tokenizers = [config.load_tokenizer(folder) for config in cls.ENCODERS.values()]
        _, prefix = cls.prompt_prefixes(**settings)
        truncated: dict[str, str] = {}
        for group in groups:
            counts = cls._clean_placeholders(group.placeholders)
            for prompts, before in ((group.prompts, prefix), ([group.negative_prompt], "")):
                originals = {cls._clean(prompt): prompt for prompt in prompts}
                for tokenizer in tokenizers:
                    found = tokenizer.truncated(list(originals), counts, before)
                    truncated |= {originals[text]: words for text, words in found.items()}
        return truncated


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return sum(w e) / sum(w) for each sample of error (batch, channels, ..., height, width): (batch,).

    weight: w of each place, (batch, height, width), the same in all channels.
    """
    w = weight.view(len(weight), *[1] * (error.ndim - 3), *weight.shape[1:]).expand_as(error)
    return (w * error).flatten(1).sum(dim=1) / w.flatten(1).sum(dim=1)
