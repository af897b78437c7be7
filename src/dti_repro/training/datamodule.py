"""What each concept of a pack is shown at each optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dti_repro.backbones.base import InitializerEmbedding, PromptGroup, Tokens
from dti_repro.backbones.diffusers_base import DiffusersBackbone
from dti_repro.data.concept import Concept
from dti_repro.data.encoded_views import EncodedViews
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.randomness import generator
from dti_repro.data.views import Framing
from dti_repro.errors import one_line

if TYPE_CHECKING:
    from dti_repro.training.concept_state import ConceptState


CENTRE = Framing()


class Batch(NamedTuple):
    """Everything random of one optimizer step of one concept; n = batch x accumulate samples."""

    image: Tensor  # (n,) indices of the photos' views
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
    latents: EncodedViews
    seed: int
    samples: int  # of one optimizer step
    timesteps: int  # of the backbone

    @classmethod
    def encode(
        cls,
        backbone: DiffusersBackbone,
        concept: Concept,
        initializer: InitializerEmbedding,
        templates: Sequence[str],
        extra_prompts: Sequence[str],
        seed: int,
        samples: int,
        cache: LatentCache,
        framing: Framing = CENTRE,
    ) -> ConceptDataset:
        """Tokenize the templates, or the concept's captions in their place, and the extra prompts, and encode the
        photos. Print which words of captions are cut off. InputError for a photo that is damaged."""
        templates = concept.captions or templates
        latents = EncodedViews.encode(backbone, concept, cache, framing, seed)
        counts = {concept.placeholder: initializer.positions}
        tokens, class_tokens, extra_tokens, extra_class_tokens = (
            backbone.tokenize([concept.fill(text, class_word) for text in texts], {} if class_word else counts).to(
                backbone.device
            )
            for texts in (templates, extra_prompts or templates[:1])
            for class_word in (False, True)
        )
        if concept.captions:
            _say_what_is_cut(backbone, concept, initializer.positions)
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
        photos = self._photos(step)
        image = torch.tensor(self._views(step, photos))
        shape = (self.samples, *self.latents.shape(image))
        templates, extra = (len(next(iter(tokens.ids.values()))) for tokens in (self.tokens, self.extra_tokens))
        template = torch.randint(templates, (self.samples,), generator=random)
        return Batch(
            image=image,
            template=torch.tensor(photos) if self.concept.captions else template,
            t=torch.randint(self.timesteps, (self.samples,), generator=random),
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.rand(self.samples, generator=random),
            extra=torch.randint(extra, (self.samples,), generator=random),
        )

    def evaluation(self, samples: int) -> Batch:
        """Return a batch that is the same at every step, of views of one shape."""
        random = generator(self.seed, self.concept.name, "evaluation")
        views = [view for view, bucket in enumerate(self.latents.bucket) if bucket == 0]
        image = torch.tensor(views)[torch.randint(len(views), (samples,), generator=random)]
        template = torch.randint(len(next(iter(self.tokens.ids.values()))), (samples,), generator=random)
        shape = (samples, *self.latents.shape(image))
        return Batch(
            image=image,
            template=torch.tensor(self.latents.photo)[image] if self.concept.captions else template,
            t=torch.randperm(self.timesteps, generator=random)[:samples],
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.zeros(samples),
            extra=torch.zeros(samples, dtype=torch.long),
        )

    def _photos(self, step: int) -> list[int]:
        """Return the photo of each sample of a step: all of one bucket, and each photo equally often."""
        buckets = self.latents.bucket_of_photos()
        bucket, before = self._bucket(step, buckets)
        photos = [photo for photo, its_bucket in enumerate(buckets) if its_bucket == bucket]
        shown = []
        for sample in range(before * self.samples, (before + 1) * self.samples):
            epoch, place = divmod(sample, len(photos))
            order = torch.randperm(len(photos), generator=generator(self.seed, self.concept.name, "epoch", epoch))
            shown.append(photos[int(order[place])])
        return shown

    def _bucket(self, step: int, buckets: Sequence[int]) -> tuple[int, int]:
        """Return the bucket of a step, and how many steps before it had the same: in as many steps as there are photos,
        a bucket has as many steps as photos. buckets: of each photo."""
        if len(set(buckets)) == 1:
            return buckets[0], step
        cycle, place = divmod(step, len(buckets))
        random = generator(self.seed, self.concept.name, "buckets", cycle)
        order = [buckets[photo] for photo in torch.randperm(len(buckets), generator=random).tolist()]
        bucket = order[place]
        return bucket, cycle * buckets.count(bucket) + order[:place].count(bucket)

    def _views(self, step: int, photos: Sequence[int]) -> list[int]:
        """Return one view of each photo, drawn where it has several."""
        random = generator(self.seed, self.concept.name, "view", step)
        drawn = torch.randint(1 << 31, (len(photos),), generator=random).tolist()
        views = map(self.latents.views_of, photos)
        return [of_photo[number % len(of_photo)] for of_photo, number in zip(views, drawn, strict=True)]


def _say_what_is_cut(backbone: DiffusersBackbone, concept: Concept, vectors: int) -> None:
    captions = [concept.fill(caption) for caption in concept.captions]
    cut = backbone.truncated_words(backbone.folder, [PromptGroup(captions, "", {concept.placeholder: vectors})])
    for photo, caption in zip(concept.images, captions, strict=True):
        if caption in cut:
            print(one_line(f"{concept.name}: the caption of {photo.name} is too long, '{cut[caption]}' is lost"))


def by_shape(pack: Mapping[int, Batch]) -> list[list[int]]:
    """Return the concepts of a pack in groups whose latents have one shape, and fit into one pass."""
    groups: dict[torch.Size, list[int]] = {}
    for concept, batch in pack.items():
        groups.setdefault(batch.noise.shape, []).append(concept)
    return list(groups.values())


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
