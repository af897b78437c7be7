"""What each concept of a pack is shown at each optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dti_repro.backbones.backbone import Backbone
from dti_repro.backbones.base import InitializerEmbedding, PromptGroup, Tokens
from dti_repro.data.concept import Concept
from dti_repro.data.encoded_views import EncodedViews
from dti_repro.data.latent_cache import LatentCache
from dti_repro.data.randomness import generator
from dti_repro.data.views import Framing
from dti_repro.errors import one_line

if TYPE_CHECKING:
    from dti_repro.training.concept_state import ConceptState


class Batch(NamedTuple):
    """Everything random of one optimizer step of one concept; n = batch x accumulate samples."""

    image: Tensor  # (n,) indices of the photos' views
    template: Tensor  # (n,) indices of prompt templates
    t: Tensor  # (n,) timesteps
    latent_noise: Tensor  # (n, channels, height, width), for sampling the VAE's posterior
    noise: Tensor  # the same shape, what the denoiser has to predict
    chance: Tensor  # (n,) uniform numbers in [0, 1), for what a method draws at random
    extra: Tensor  # (n,) indices of the method's extra prompts
    zeros: Tensor  # (n,) numbers of zero vectors before the prompts

    def part(self, samples: slice) -> Batch:
        return Batch(*(tensor[samples] for tensor in self))

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))


class ConceptDataset(Dataset[Batch]):
    """The encoded photos and prompts of one concept. Item k is the batch of optimizer step k, counted from 0. It is a
    function of (seed, concept, k) alone, so that neither packing nor resuming changes it."""

    def __init__(
        self,
        backbone: Backbone,
        concept: Concept,
        initializer: InitializerEmbedding,
        templates: Sequence[str],
        extra_prompts: Sequence[str],
        seed: int,
        samples: int,
        cache: LatentCache,
        framing: Framing,
        padded: bool = False,
    ) -> None:
        """Tokenize the templates, or the concept's captions in their place, and the extra prompts, and encode the
        photos. Print which words of captions are cut off. samples: of one step. padded: zero vectors stand before
        the prompts. InputError for a damaged photo."""

        def tokenized(texts: Sequence[str], class_word: bool = False) -> Tokens:
            counts = {} if class_word else {concept.placeholder: initializer.positions}
            return backbone.tokenize([concept.fill(text, class_word) for text in texts], counts).to(backbone.device)

        templates = concept.captions or templates
        extra_prompts = extra_prompts or templates[:1]
        self.concept = concept
        self.initializer = initializer
        self.latents = EncodedViews(backbone, concept, cache, framing, seed)
        self.tokens = tokenized(templates)
        self.class_tokens = tokenized(templates, class_word=True)
        self.extra_tokens = tokenized(extra_prompts)
        self.extra_class_tokens = tokenized(extra_prompts, class_word=True)
        self._templates, self._extra_prompts = len(templates), len(extra_prompts)
        self._seed, self._samples, self._timesteps = seed, samples, backbone.spec.timesteps
        self._padded = padded
        if concept.captions:
            _warn_of_cut_captions(backbone, concept, initializer.positions)

    def __getitem__(self, step: int) -> Batch:
        random = self._generator("step", step)
        photos = self._photos(step)
        image = torch.tensor(self._views(step, photos))
        shape = (self._samples, *self.latents.shape(image))
        template = torch.randint(self._templates, (self._samples,), generator=random)
        zeros = torch.zeros(self._samples)
        if self._padded:  # as the DTI paper's code: an exponential number with mean 2, at most 15, rounded down
            zeros.exponential_(1 / 2, generator=self._generator("zeros", step)).clamp_(max=15)
        return Batch(
            image=image,
            template=torch.tensor(photos) if self.concept.captions else template,
            t=torch.randint(self._timesteps, (self._samples,), generator=random),
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.rand(self._samples, generator=random),
            extra=torch.randint(self._extra_prompts, (self._samples,), generator=random),
            zeros=zeros.long(),
        )

    def evaluation(self, samples: int) -> Batch:
        """Return a batch that is the same at every step, of views of one shape."""
        random = self._generator("evaluation")
        views = [view for view, bucket in enumerate(self.latents.bucket) if bucket == 0]
        image = torch.tensor(views)[torch.randint(len(views), (samples,), generator=random)]
        template = torch.randint(self._templates, (samples,), generator=random)
        shape = (samples, *self.latents.shape(image))
        return Batch(
            image=image,
            template=torch.tensor(self.latents.photo)[image] if self.concept.captions else template,
            t=torch.randperm(self._timesteps, generator=random)[:samples],
            latent_noise=torch.randn(shape, generator=random),
            noise=torch.randn(shape, generator=random),
            chance=torch.zeros(samples),
            extra=torch.zeros(samples, dtype=torch.long),
            zeros=torch.zeros(samples, dtype=torch.long),
        )

    def _generator(self, use: str, *number: int) -> torch.Generator:
        return generator(self._seed, self.concept.name, use, *number)

    def _photos(self, step: int) -> list[int]:
        """Return the photo of each sample of a step: all of one bucket, and each photo equally often. A cycle has as
        many steps as there are photos, and each bucket has as many of them as it has photos."""
        buckets = self.latents.bucket_of_photos
        cycle, place = divmod(step, len(buckets))
        shuffled = torch.randperm(len(buckets), generator=self._generator("buckets", cycle))
        order = [buckets[photo] for photo in shuffled.tolist()]
        bucket = order[place]
        before = cycle * buckets.count(bucket) + order[:place].count(bucket)  # steps that had the same bucket
        photos = [photo for photo, its_bucket in enumerate(buckets) if its_bucket == bucket]
        shown = []
        for sample in range(before * self._samples, (before + 1) * self._samples):
            epoch, number = divmod(sample, len(photos))
            drawn = torch.randperm(len(photos), generator=self._generator("epoch", epoch))
            shown.append(photos[int(drawn[number])])
        return shown

    def _views(self, step: int, photos: Sequence[int]) -> list[int]:
        """Return one view of each photo, drawn where it has several."""
        drawn = torch.randint(1 << 31, (len(photos),), generator=self._generator("view", step)).tolist()
        views = map(self.latents.views_of, photos)
        return [of_photo[number % len(of_photo)] for of_photo, number in zip(views, drawn, strict=True)]


def _warn_of_cut_captions(backbone: Backbone, concept: Concept, vectors: int) -> None:
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
    """Each item: the batches of the next step of the concepts that are not finished, by their place in the pack. Items
    are read one at a time, after the step before."""

    def __init__(self, states: Sequence[ConceptState]) -> None:
        self._states = states
        self._steps = max(0 if state.finished else state.end - state.step for state in states)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, _: int) -> dict[int, Batch]:
        return {c: state.dataset[state.step] for c, state in enumerate(self._states) if not state.finished}
