"""Photos as people have them: turned by EXIF, 16 bits deep, in print colours, transparent. Out comes upright
8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dti_repro.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_photos(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder by name; other and hidden files are left alone. InputError if there is
    none."""
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    photos = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )
    if not photos:
        raise InputError(f"image folder {folder} holds no image ({' '.join(SUFFIXES)})")
    return tuple(photos)


def load_photo(path: Path) -> Image.Image:
    """RGB, upright, alpha laid on white. InputError that names the file if it cannot be decoded to its
    end."""
    if not path.is_file():
        raise InputError(f"image {path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError, OverflowError, ...
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise InputError(f"image {path} cannot be read: {reason}") from error


def check_photos(paths: Iterable[Path]) -> None:
    """Decode each to its end: a truncated photo is found now, not after the models are loaded."""
    for path in paths:
        load_photo(path)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square, resampled to size x size. Photos that are no squares lose their margins:
    latents are encoded once, so there is no random crop per step."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion clips 16 bits at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
