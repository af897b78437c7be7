"""Masks of reference photos, `<folder>/<concept>/<stem of the photo>.png`, for image scores of the subject alone.

Kim et al. 2025 black out the background of the references and leave the generations as they are; their masks are not
published. No torch in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dti_repro.data.photos import FORMATS, load_photo
from dti_repro.errors import InputError


def mask_path(folder: Path, concept: str, photo: Path) -> Path:
    """Where the mask of a concept's photo lies."""
    return folder / concept / f"{photo.stem}.png"


def check_masks(folder: Path, concept: str, photos: Sequence[Path]) -> None:
    """InputError unless every photo has a mask, and one that can be used: of the photo's size (upright), without
    transparency, neither all black nor all white."""
    stems = {photo.stem for photo in photos}
    if len(stems) < len(photos):
        raise InputError(f"masks={folder}: two photos of {concept} differ in their suffix only, rename one")
    missing = [path for photo in photos if not (path := mask_path(folder, concept, photo)).is_file()]
    if missing:
        raise InputError(
            f"masks={folder}: {len(missing)} of the {len(photos)} photos of {concept} have none, such as {missing[0]}; "
            "every reference needs one"
        )
    for photo in photos:
        _subject(mask_path(folder, concept, photo), load_photo(photo))


def masked_photo(folder: Path, concept: str, photo: Path) -> Image.Image:
    """The photo, black outside of its mask. InputError as check_masks."""
    image = load_photo(photo)
    subject = _subject(mask_path(folder, concept, photo), image)
    return Image.composite(image, Image.new("RGB", image.size), subject)


def _subject(path: Path, photo: Image.Image) -> Image.Image:
    """255 where the mask is brighter than half, 0 elsewhere."""
    mask = load_photo(path)
    with Image.open(path, formats=FORMATS) as stored:
        if stored.has_transparency_data:
            raise InputError(
                f"mask {path} is transparent in places: white for the subject and black elsewhere is needed"
            )
    if mask.size != photo.size:
        sizes = [f"{width} x {height}" for width, height in (mask.size, photo.size)]
        raise InputError(f"mask {path} has {sizes[0]} pixels, its photo {sizes[1]}: they must be equal")
    subject = mask.convert("L").point(lambda value: 255 if value > 127 else 0)
    darkest, brightest = subject.getextrema()
    if darkest == brightest:
        raise InputError(
            f"mask {path} is all {'white' if darkest else 'black'}: white for the subject, black elsewhere"
        )
    return subject
