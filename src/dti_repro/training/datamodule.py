"""What each concept of a pack is shown at each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dti_repro.backbones.base import Backbone, InitializerEmbedding, PromptGroup, Tokens
from dti_repro.data.concept import Concept
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.randomness import generator
from dti_repro.data.views import EncodedViews
from dti_repro.errors import one_line

if TYPE_CHECKING:
    from dti_repro.training.concept_state import ConceptState


class Batch(NamedTuple):
    """Everything random of one optimizer step of one concept; n = batch x accumulate samples."""

    image: Tensor  # (n,) indices of photos
    template: Tensor  # (n,) indices of prompt templates
    t: Tensor  # (n,) timesteps
    latent_noise: Tensor  # (n, channels, height, width), for sampling the VAE's posterior
    noise: Tensor  # the same shape, what the denoiser has to predict

    def part(self, samples: slice) -> Batch:
        """Return some of the samples."""
        return Batch(*(tensor[samples] for tensor in self))


@dataclass(frozen=True)
class ConceptDataset(Dataset[Batch]):
    """The encoded photos and prompts of one concept. Item k is the batch of optimizer step k, counted from 0. It is a
    function of (seed, concept, k) alone, so that neither packing nor resuming changes it."""

    concept: Concept
    initializer: InitializerEmbedding
    tokens: Tokens  # one row per template
    class_tokens: Tokens  # the same with the class word
    latents: EncodedViews
    seed: int
    samples: int  # of one optimizer step
    timesteps: int  # of the backbone

    @classmethod
    def encode(
        cls, backbone: Backbone, concept: Concept, templates: Sequence[str], seed: int, samples: int, cache: LatentCache
    ) -> ConceptDataset:
        """Tokenize the templates, or the concept's captions in their place, and encode the photos. Print which words of
        captions are cut off. InputError for a photo that cannot be read."""
        initializer = backbone.embed_initializer(concept.name, concept.initializer, seed)
        templates = concept.captions or templates
        prompts = [template.replace("{}", concept.placeholder) for template in templates]
        class_prompts = [template.replace("{}", concept.class_word) for template in templates]
        latents = EncodedViews.encode(backbone, concept, cache)
        tokens = backbone.tokenize(prompts, {concept.placeholder: initializer.positions}).to(backbone.device)
        class_tokens = backbone.tokenize(class_prompts, {}).to(backbone.device)
        if concept.captions:
            _say_what_is_cut(backbone, concept, PromptGroup(prompts, "", {concept.placeholder: initializer.positions}))
        return cls(concept, initializer, tokens, class_tokens, latents, seed, samples, backbone.spec.timesteps)

    def __getitem__(self, step: int) -> Batch:
        random = generator(self.seed, self.concept.name, "step", step)
        shape = (self.samples, *self.latents.posterior.mean.shape[1:])
        templates = len(next(iter(self.tokens.ids.values())))
        image = torch.tensor([self._photo(step * self.samples + i) for i in range(self.samples)])
        template = torch.randint(templates, (self.samples,), generator=random)
        return Batch(
            image=image,
            template=image if self.concept.captions else template,
            t=torch.randint(self.timesteps, (self.samples,), generator=random),
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
        )

    def _photo(self, sample: int) -> int:
        """Return the photo of the training's n-th sample: each is shown equally often."""
        photos = len(self.concept.images)
        epoch, place = divmod(sample, photos)
        order = torch.randperm(photos, generator=generator(self.seed, self.concept.name, "epoch", epoch))
        return int(order[place])


def _say_what_is_cut(backbone: Backbone, concept: Concept, captions: PromptGroup) -> None:
    cut = backbone.truncated_words(backbone.folder, [captions])
    for photo, caption in zip(concept.images, captions.prompts, strict=True):
        if caption in cut:
            print(one_line(f"{concept.name}: the caption of {photo.name} is too long, '{cut[caption]}' is lost"))


class PackDataset(Dataset[dict[int, Batch]]):
    """Item k: the batches of the k-th step from now on, by the concept's place in the pack, of all concepts that are
    not finished by then."""

    def __init__(self, states: Sequence[ConceptState], steps: int) -> None:
        self._remaining = [(state.dataset, range(state.step, steps)) for state in states]

    def __len__(self) -> int:
        return max(len(steps) for _, steps in self._remaining)

    def __getitem__(self, k: int) -> dict[int, Batch]:
        pack = enumerate(self._remaining)
        return {c: dataset[steps[k]] for c, (dataset, steps) in pack if k < len(steps)}


class PackDataModule(pl.LightningDataModule):
    """Shows each concept of a pack its batches, from the step on that it has reached."""

    def __init__(self, states: Sequence[ConceptState], steps: int) -> None:
        super().__init__()
        self._states = states
        self._steps = steps

    def train_dataloader(self) -> DataLoader[dict[int, Batch]]:
        return DataLoader(PackDataset(self._states, self._steps), batch_size=None)
