"""Photos as people have them: turned by EXIF, 16 bits deep, in print colours, transparent. Out comes upright
8-bit RGB."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dti_repro.errors import InputError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
"""What a file may be inside, whatever its name: Pillow has other decoders, and that of PostScript runs Ghostscript."""
NAMED = 8  # ignored files that a message lists


def list_photos(folder: Path) -> tuple[Path, ...]:
    """Return the image files of a folder by name. Print which other files there are; hidden ones are not counted.
    InputError if there is no image."""
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"image folder {folder} cannot be read ({error.strerror})") from error
    photos = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    known = set(photos)
    others = [path.name + "/" * path.is_dir() for path in entries if path not in known]
    listed = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    if not photos:
        ignored = f"; ignored: {listed}" if others else ""
        raise InputError(f"image folder {folder} holds no image ({' '.join(SUFFIXES)}){ignored}")
    if others:
        line = f"{folder}: {len(photos)} photos used, {len(others)} files ignored: {listed}"
        print(one_line(line), file=sys.stderr)
    return tuple(photos)


def load_photo(path: Path) -> Image.Image:
    """RGB, upright, alpha laid on white. InputError that names the file if it cannot be decoded to its
    end."""
    if not path.is_file():
        raise InputError(f"image {path} does not exist")
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError, OverflowError, ...
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"not an image of the formats {', '.join(FORMATS)}" if unknown else str(error)
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
