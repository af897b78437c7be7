"""What each concept of a pack is shown at each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dti_repro.backbones.base import Backbone, InitializerEmbedding, LatentDistribution, Tokens
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.photos import centre_crop, load_photo
from dti_repro.data.randomness import generator

if TYPE_CHECKING:
    from dti_repro.training.concept_state import ConceptState


class Batch(NamedTuple):
    """Everything random of one optimizer step of one concept; n = batch x accumulate samples."""

    image: Tensor  # (n,) indices of photos
    template: Tensor  # (n,) indices of prompt templates
    t: Tensor  # (n,) timesteps
    latent_noise: Tensor  # (n, channels, height, width), for sampling the VAE's posterior
    noise: Tensor  # the same shape, what the denoiser has to predict
    chance: Tensor  # (n,) uniform numbers in [0, 1), for what a method draws at random
    extra: Tensor  # (n,) indices of the method's extra prompts

    def part(self, samples: slice) -> Batch:
        """Return some of the samples."""
        return Batch(*(tensor[samples] for tensor in self))

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True)
class ConceptDataset(Dataset[Batch]):
    """The encoded photos and prompts of one concept. Item k is the batch of optimizer step k, counted from 0. It is a
    function of (seed, concept, k) alone, so that neither packing nor resuming changes it."""

    concept: Concept
    initializer: InitializerEmbedding
    tokens: Tokens  # one row per template
    class_tokens: Tokens  # the same with the class word
    extra_tokens: Tokens  # the method's extra prompts
    extra_class_tokens: Tokens
    latents: LatentDistribution
    seed: int
    samples: int  # of one optimizer step
    timesteps: int  # of the backbone

    @classmethod
    def encode(
        cls,
        backbone: Backbone,
        concept: Concept,
        initializer: InitializerEmbedding,
        templates: Sequence[str],
        extra_prompts: Sequence[str],
        seed: int,
        samples: int,
        cache: LatentCache,
    ) -> ConceptDataset:
        """Tokenize the templates and extra prompts, and encode the photos. InputError for a photo that is damaged."""
        size = backbone.spec.resolution
        photos = [np.asarray(centre_crop(load_photo(path), size)) for path in concept.images]
        pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = cache.encode(backbone, pixels)
        counts = {concept.placeholder: initializer.positions}
        tokens, class_tokens, extra_tokens, extra_class_tokens = (
            backbone.tokenize([concept.fill(text, class_word) for text in texts], {} if class_word else counts).to(
                backbone.device
            )
            for texts in (templates, extra_prompts or templates[:1])
            for class_word in (False, True)
        )
        return cls(
            concept,
            initializer,
            tokens,
            class_tokens,
            extra_tokens,
            extra_class_tokens,
            latents,
            seed,
            samples,
            backbone.spec.timesteps,
        )

    def __getitem__(self, step: int) -> Batch:
        random = generator(self.seed, self.concept.name, "step", step)
        shape = (self.samples, *self.latents.mean.shape[1:])
        templates, extra = (len(next(iter(tokens.ids.values()))) for tokens in (self.tokens, self.extra_tokens))
        return Batch(
            image=torch.tensor([self._photo(step * self.samples + i) for i in range(self.samples)]),
            template=torch.randint(templates, (self.samples,), generator=random),
            t=torch.randint(self.timesteps, (self.samples,), generator=random),
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.rand(self.samples, generator=random),
            extra=torch.randint(extra, (self.samples,), generator=random),
        )

    def evaluation(self, samples: int) -> Batch:
        """Return a batch that is the same at every step."""
        random = generator(self.seed, self.concept.name, "evaluation")
        shape = (samples, *self.latents.mean.shape[1:])
        return Batch(
            image=torch.randint(len(self.latents.mean), (samples,), generator=random),
            template=torch.randint(len(next(iter(self.tokens.ids.values()))), (samples,), generator=random),
            t=torch.randperm(self.timesteps, generator=random)[:samples],
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.zeros(samples),
            extra=torch.zeros(samples, dtype=torch.long),
        )

    def _photo(self, sample: int) -> int:
        """Return the photo of the training's n-th sample: each is shown equally often."""
        photos = len(self.latents.mean)
        epoch, place = divmod(sample, photos)
        order = torch.randperm(photos, generator=generator(self.seed, self.concept.name, "epoch", epoch))
        return int(order[place])


class PackDataset(Dataset[dict[int, Batch]]):
    """Item k: the batches of the k-th step from now on, by the concept's place in the pack, of all concepts that are
    not finished by then."""

    def __init__(self, states: Sequence[ConceptState]) -> None:
        ends = (state.step if state.finished else state.steps for state in states)
        self._remaining = [(state, range(state.step, end)) for state, end in zip(states, ends, strict=True)]

    def __len__(self) -> int:
        return max(len(steps) for _, steps in self._remaining)

    def __getitem__(self, k: int) -> dict[int, Batch]:
        pack = enumerate(self._remaining)
        return {c: state.dataset[steps[k]] for c, (state, steps) in pack if k < len(steps) and not state.finished}


class PackDataModule(pl.LightningDataModule):
    """Shows each concept of a pack its batches, from the step on that it has reached."""

    def __init__(self, states: Sequence[ConceptState]) -> None:
        super().__init__()
        self._states = states

    def train_dataloader(self) -> DataLoader[dict[int, Batch]]:
        return DataLoader(PackDataset(self._states), batch_size=None)
