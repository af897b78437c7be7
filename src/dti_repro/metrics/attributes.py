"""Share of the expected attributes that a classifier reads in an image (the toybox's own text score)."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from dti_repro.artifacts.files import read_json
from dti_repro.config.values import check_value
from dti_repro.errors import InputError
from dti_repro.metrics.base import ImageMetric, Sample
from dti_repro.metrics.catalogue import weights_folder
from dti_repro.metrics.encoders import TimmEncoder


class AttributeReader(nn.Module):
    """A timm classifier whose logits are all heads in a row. `heads.json` in its folder names the labels of each head,
    in the order of the logits. InputError for a file that is missing, damaged or of another classifier."""

    def __init__(self, checkpoint: str, preprocess: Mapping | None = None) -> None:
        super().__init__()
        folder = weights_folder(checkpoint)
        if folder is None or not (folder / "heads.json").is_file():
            raise InputError(f"attribute reader '{checkpoint}': there is no heads.json in the folder of its weights")
        file = folder / "heads.json"
        heads = read_json(file, "write the list of labels of each attribute again")
        self.heads: dict[str, list[str]] = check_value(heads, dict[str, list[str]], str(file))
        self.encoder = TimmEncoder.load(checkpoint, preprocess)
        if (labels := sum(map(len, self.heads.values()))) != self.encoder.network.num_classes:
            raise InputError(f"{file} has {labels} labels, its classifier {self.encoder.network.num_classes} outputs")

    def read(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """Return the most likely label of each head, image by image."""
        pieces = self.encoder.images(images).split([len(labels) for labels in self.heads.values()], dim=1)
        picks = {name: piece.argmax(dim=1).tolist() for name, piece in zip(self.heads, pieces, strict=True)}
        return [{name: self.heads[name][picks[name][i]] for name in self.heads} for i in range(len(images))]


class AttributeAccuracy(ImageMetric):
    """Share of those attributes in `keys` (e.g. colours bound to an object, or the relation alone) that are expected
    and read as expected; NaN where none is expected. checkpoint: as `AttributeReader`."""

    def __init__(self, checkpoint: str, keys: Sequence[str], preprocess: Mapping | None = None) -> None:
        super().__init__()
        self.keys, self.reader = list(keys), AttributeReader(checkpoint, preprocess)
        if unknown := [key for key in self.keys if key not in self.reader.heads]:
            raise InputError(f"metric keys {unknown}: the attribute reader has {', '.join(self.reader.heads)}")

    def check(self, expect: Mapping[str, str]) -> None:
        for key, label in expect.items():
            if key in self.keys and label not in self.reader.heads[key]:
                raise InputError(
                    f"the attribute reader has no {key} '{label}': correct `expect` in the prompt set"
                    f"{', or the class word of the concept' if key == 'class' else ''}"
                )

    def score(self, images: Sequence[Image.Image], samples: Sequence[Sample]) -> Tensor:
        shares = []
        for sample, read in zip(samples, self.reader.read(images), strict=True):
            self.check(sample.expect or {})
            expect = {key: label for key, label in (sample.expect or {}).items() if key in self.keys}
            right = sum(read[key] == label for key, label in expect.items())
            shares.append(right / len(expect) if expect else float("nan"))
        return torch.tensor(shares, dtype=torch.float64)
