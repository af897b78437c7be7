"""Masks of photos, `<folder>/<concept>/<stem of the photo>.png`: white is the subject, cut at the middle grey.

Image scores compare with the subject alone, and a training may count the loss there alone. Kim et al. 2025 make the
background of the references black and leave the generated images as they are. Their masks are not published.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from PIL import Image, ImageOps

from dti_repro.data.concept import Concept
from dti_repro.data.photos import FORMATS, check_names_differ, listed, load_photo
from dti_repro.errors import InputError, one_line


def mask_path(folder: Path, concept: str, photo: Path) -> Path:
    return folder / concept / f"{photo.stem}.png"


def check_masks(folder: Path, concept: str, photos: Sequence[Path]) -> None:
    """Raise InputError unless every photo has a mask of its upright size, without transparency, neither all black nor
    all white."""
    check_names_differ(concept, photos)
    missing = [path for photo in photos if not (path := mask_path(folder, concept, photo)).is_file()]
    if missing:
        raise InputError(
            f"masks={folder}: {len(missing)} of the {len(photos)} photos of {concept} have none, such as {missing[0]}; "
            "every reference needs one"
        )
    for photo in photos:
        masked_photo(folder, concept, photo)


def masked_photo(folder: Path, concept: str, photo: Path) -> Image.Image:
    """Return the photo, black where the mask is not brighter than half. InputError for a mask as in `check_masks`."""
    image, path = load_photo(photo), mask_path(folder, concept, photo)
    subject = load_mask(path, image.size)
    if subject.getextrema() == (255, 255):
        raise InputError(f"mask {path} is all white: make the subject white and the rest black")
    return Image.composite(image, Image.new("RGB", image.size), subject)


def load_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return a mask in grey: 255 where it is brighter than half, else 0. size: its photo's. InputError for a mask of
    another size, with transparency, or without any white."""
    mask = load_photo(path)
    with Image.open(path, formats=FORMATS) as stored:
        if stored.has_transparency_data:
            raise InputError(f"mask {path} is transparent: make the subject white and the rest black")
    if mask.size != size:
        sizes = [f"{width} x {height}" for width, height in (mask.size, size)]
        raise InputError(f"mask {path} has {sizes[0]} pixels, its photo {sizes[1]}: they must be equal")
    subject = mask.convert("L").point(lambda value: 255 if value > 127 else 0)
    if subject.getextrema() == (0, 0):
        raise InputError(f"mask {path} is all black: make the subject white and the rest black")
    return subject


def with_masks(concept: Concept, folder: Path) -> Concept:
    """Return the concept with the masks of its photos, for a training. Print which photos have none: all of such a
    photo counts. InputError if no photo has one."""
    check_names_differ(concept.name, concept.images)
    paths = [mask_path(folder, concept.name, photo) for photo in concept.images]
    found = tuple(path if path.is_file() else None for path in paths)
    if not any(found):
        raise InputError(f"trainer.masks {folder} has no mask of {concept.name}, such as {paths[0]}")
    if None in found:
        without = [photo.name for photo, mask in zip(concept.images, found, strict=True) if mask is None]
        line = f"{concept.name}: {len(without)} of {len(found)} photos have no mask, and count as a whole: "
        print(one_line(line + listed(without)), file=sys.stderr)
    return replace(concept, masks=found)


def check_training_images(concept: Concept, crop: str) -> None:
    """Decode each photo to its end, and its mask, so that a truncated one is found before a model is loaded. InputError
    as in load_photo and load_mask, and for a mask that is black in the middle square, where crop=centre trains on that
    alone."""
    for photo, file in zip_longest(concept.images, concept.masks):
        size = load_photo(photo).size
        if file is None:
            continue
        mask = load_mask(file, size)
        if crop == "centre" and ImageOps.fit(mask, [min(mask.size)] * 2).getextrema() == (0, 0):
            raise black_in_view(file)


def black_in_view(mask: Path) -> InputError:
    """Return the error of a mask that leaves nothing of what is trained on."""
    return InputError(
        f"mask {mask} is black in the part of its photo that is trained on: give trainer.crop=none, or leave the photo "
        "out"
    )
