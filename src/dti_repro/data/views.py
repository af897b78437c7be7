"""What a training shows of photos: parts of them, at the size of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image, ImageOps

from dti_repro.data.concept import Concept
from dti_repro.data.masks import black_in_view, load_mask
from dti_repro.data.photos import load_photo
from dti_repro.data.randomness import generator

STEP = 64  # pixels: the sides of a bucket are multiples of it, as in SDXL's training (Podell et al. 2023, appendix I)
SMALL = 256  # pixels: below this size the backbone's own step is taken
WIDEST = 4  # the largest ratio of a bucket's sides, as there
MIDDLE = (0.5, 0.5)  # as much is cut off on each side
TRIES = 100  # random crops that are drawn for one that shows some of the subject


@dataclass(frozen=True)
class Framing:
    """How photos are cut. crop: centre, the largest square in the middle; random, `crops` fixed random squares of each
    photo that is none; none, as good as all of a photo, in a bucket of its own aspect ratio."""

    crop: Literal["centre", "random", "none"] = "centre"
    crops: int = 8


class View(NamedTuple):
    """A part of a photo, at the size of the training."""

    photo: int  # its place among the concept's photos
    pixels: Image.Image
    mask: Image.Image | None  # the same part of the photo's mask, in grey: what the loss counts
    sizes: tuple[int, ...]  # height and width of the photo, top left corner in the resized photo, height and width


def cut(concept: Concept, framing: Framing, size: int, step: int, seed: int) -> Iterator[View]:
    """Yield the views of a concept's photos, those of one photo after another.

    size: the side of the training's square image in pixels. step: the sides of an image are multiples of it. seed: with
    the concept's name it decides the random crops. InputError for a mask that leaves nothing of a view.
    """
    for k, path in enumerate(concept.images):
        photo, file = load_photo(path), concept.masks[k] if concept.masks else None
        mask = None if file is None else load_mask(file, photo.size)
        bucket = nearest_bucket(photo.size, size, step) if framing.crop == "none" else (size, size)
        count = framing.crops if framing.crop == "random" and photo.width != photo.height else 1
        random = generator(seed, concept.name, "crop", k)
        for _ in range(count):
            tries = torch.rand(TRIES, 2, generator=random).tolist() if framing.crop == "random" else [MIDDLE]
            for centre in tries:
                # Bilinear, which does not ring at edges, as Lanczos does.
                part = None if mask is None else fitted(mask, bucket, centre, Image.Resampling.BILINEAR)
                if part is None or part.getextrema() != (0, 0):
                    break
            else:
                raise black_in_view(file)
            yield View(k, fitted(photo, bucket, centre), part, _sizes(photo.size, bucket, centre))


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    centre: Sequence[float] = MIDDLE,
    filter: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Return the largest part of the image that has the shape of `size`, resampled to it. centre: shares of what is cut
    off that are cut off on the left and on the top."""
    if image.size == size:
        return image
    return ImageOps.fit(image, size, method=filter, centering=tuple(centre))


def buckets(size: int, step: int) -> list[tuple[int, int]]:
    """Return the sizes (width, height) that stand for a square image of this size: sides are multiples of 64, the area
    is the square's or the next smaller one, and no side is more than 4 times the other."""
    step = step if size < SMALL else math.lcm(STEP, step)
    wide = [(long, size * size // long // step * step) for long in range(size // step * step, 2 * size + 1, step)]
    wide = [(long, short) for long, short in wide if size < long <= WIDEST * short]
    return [(size, size), *wide, *((short, long) for long, short in wide)]


def nearest_bucket(photo: tuple[int, int], size: int, step: int) -> tuple[int, int]:
    """Return the bucket whose aspect ratio is nearest to that of a photo (width, height)."""
    wanted = math.log(photo[0] / photo[1])
    return min(buckets(size, step), key=lambda side: abs(math.log(side[0] / side[1]) - wanted))


def _sizes(photo: tuple[int, int], view: tuple[int, int], centre: Sequence[float]) -> tuple[int, ...]:
    """Return what SDXL may be told of a view. The corner is that of a photo which is resized before it is cut."""
    scale = max(view[0] / photo[0], view[1] / photo[1])
    left, top = (round((p * scale - v) * c) for p, v, c in zip(photo, view, centre, strict=True))
    return photo[1], photo[0], top, left, view[1], view[0]
