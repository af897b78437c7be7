"""Share of the expected attributes that a classifier reads in an image (the toybox's own text score)."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from dti_repro.errors import InputError
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.encoders import TimmEncoder, reader_heads


def read_heads(logits: Tensor, heads: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return the most likely label of each head, image by image, from (images, sum of labels) logits in the order of
    `heads`."""
    pieces = logits.split([len(labels) for labels in heads.values()], dim=1)
    picks = {name: piece.argmax(dim=1).tolist() for name, piece in zip(heads, pieces, strict=True)}
    return [{name: heads[name][picks[name][i]] for name in heads} for i in range(len(logits))]


class AttributeAccuracy(ImageMetric):
    """Share of those attributes in `keys` (e.g. colours bound to an object, or the relation alone) that are expected
    and read as expected; NaN where none is expected.

    The checkpoint is a timm classifier whose logits are all heads in a row. `heads.json` in its folder names the
    labels.
    """

    def __init__(self, checkpoint: str, keys: Sequence[str], preprocess: Mapping | None = None) -> None:
        super().__init__()
        self.keys, self.heads = list(keys), reader_heads(checkpoint)
        if unknown := [key for key in self.keys if key not in self.heads]:
            raise InputError(f"metric keys {unknown}: the attribute reader has {', '.join(self.heads)}")
        self.encoder = TimmEncoder.load(checkpoint, preprocess)

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        expected = [{key: s.expect[key] for key in self.keys if s.expect and key in s.expect} for s in samples]
        for key, label in (pair for expect in expected for pair in expect.items()):
            if label not in self.heads[key]:
                raise InputError(
                    f"the attribute reader has no {key} '{label}': correct `expect` in the prompt set"
                    f"{', or the class word of the concept' if key == 'class' else ''}"
                )
        shares = []
        for read, expect in zip(read_heads(self.encoder.images(images), self.heads), expected, strict=True):
            right = sum(read[key] == label for key, label in expect.items())
            shares.append(right / len(expect) if expect else float("nan"))
        return torch.tensor(shares, dtype=torch.float64)
