"""Share of the expected attributes that a classifier reads in an image (the toybox's own text score)."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from dti_repro.errors import InputError
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.encoders import TimmEncoder, reader_heads


def read_heads(logits: Tensor, heads: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The most likely label of each head: (images, sum of labels) logits, sliced in the order of
    ``heads``."""
    pieces = logits.split([len(labels) for labels in heads.values()], dim=1)
    picks = {name: piece.argmax(dim=1).tolist() for name, piece in zip(heads, pieces, strict=True)}
    return [{name: heads[name][picks[name][i]] for name in heads} for i in range(len(logits))]


def expected_share(read: Mapping[str, str], expect: Mapping[str, str] | None, keys: Sequence[str]) -> float:
    """Share of those ``keys`` that ``expect`` has and that were read as expected; NaN where it has none."""
    wanted = [key for key in keys if expect and key in expect]
    return sum(read[key] == expect[key] for key in wanted) / len(wanted) if wanted else float("nan")


class AttributeAccuracy(ImageMetric):
    """Accuracy over the attributes in ``keys`` (e.g. colours bound to an object, or the relation alone).

    The checkpoint is a timm classifier whose logits are all heads in a row; ``heads.json`` beside it names
    the labels.
    """

    def __init__(self, checkpoint: str, keys: Sequence[str], preprocess: Mapping | None = None) -> None:
        super().__init__()
        self.keys, self.heads = list(keys), reader_heads(checkpoint)
        unknown = [key for key in self.keys if key not in self.heads]
        if unknown:
            raise InputError(f"metric keys {unknown}: the attribute reader has {', '.join(self.heads)}")
        self.encoder = TimmEncoder.load(checkpoint, preprocess)

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        for sample in samples:
            self._check(sample.expect or {})
        read = read_heads(self.encoder.images(images), self.heads)
        shares = [expected_share(r, s.expect, self.keys) for r, s in zip(read, samples, strict=True)]
        return torch.tensor(shares, dtype=torch.float64)

    def _check(self, expect: Mapping[str, str]) -> None:
        for key in self.keys:
            if key in expect and expect[key] not in self.heads[key]:
                raise InputError(f"expect: the attribute reader has no {key} '{expect[key]}'")
