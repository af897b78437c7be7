"""Masks of reference photos, `<folder>/<concept>/<stem of the photo>.png`, for image scores of the subject alone.

Kim et al. 2025 make the background of the references black and leave the generated images as they are. Their masks are
not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dti_repro.data.photos import FORMATS, check_names_differ, load_photo
from dti_repro.errors import InputError


def mask_path(folder: Path, concept: str, photo: Path) -> Path:
    """Return the path of the mask of a concept's photo."""
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
    mask = load_photo(path)
    with Image.open(path, formats=FORMATS) as stored:
        if stored.has_transparency_data:
            raise InputError(f"mask {path} is transparent: make the subject white and the rest black")
    if mask.size != image.size:
        sizes = [f"{width} x {height}" for width, height in (mask.size, image.size)]
        raise InputError(f"mask {path} has {sizes[0]} pixels, its photo {sizes[1]}: they must be equal")
    subject = mask.convert("L").point(lambda value: 255 if value > 127 else 0)
    darkest, brightest = subject.getextrema()
    if darkest == brightest:
        colour = "white" if darkest else "black"
        raise InputError(f"mask {path} is all {colour}: make the subject white and the rest black")
    return Image.composite(image, Image.new("RGB", image.size), subject)
