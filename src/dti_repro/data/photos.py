"""Photos of every kind (rotated by EXIF, 16 bits deep, in print colours, transparent) as upright 8-bit RGB images."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dti_repro.errors import InputError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
"""The decoders that may read a photo, whatever its name is: Pillow has others, and the one of PostScript runs
Ghostscript."""
MAX_LISTED = 8  # ignored files in a message


def list_photos(folder: Path) -> tuple[Path, ...]:
    """Return the image files of a folder, sorted by name. Print the names of other files that are not hidden.
    InputError if there is no image."""
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"image folder {folder} cannot be read ({error.strerror})") from error
    photos = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    ignored = [path.name + "/" * path.is_dir() for path in sorted(set(entries) - set(photos))]
    listed = ", ".join(ignored[:MAX_LISTED])
    if len(ignored) > MAX_LISTED:
        listed += f" and {len(ignored) - MAX_LISTED} more"
    if not photos:
        found = f"; ignored: {listed}" if ignored else ""
        raise InputError(f"image folder {folder} holds no image ({' '.join(SUFFIXES)}){found}")
    if ignored:
        line = f"{folder}: {len(photos)} photos used, {len(ignored)} files ignored: {listed}"
        print(one_line(line), file=sys.stderr)
    return tuple(photos)


def load_photo(path: Path) -> Image.Image:
    """Return the photo as an upright RGB image; what is transparent becomes white. InputError that names the file if it
    cannot be decoded to its end."""
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
    """Decode each photo to its end, so that a truncated one is found before a model is loaded. InputError."""
    for path in paths:
        load_photo(path)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the largest centred square, resampled to size x size pixels. There is no random crop in a step, as a photo
    is encoded once."""
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
