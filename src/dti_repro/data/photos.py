"""Photos of every kind (rotated by EXIF, 16 bits deep, in print colours, transparent) as upright 8-bit RGB images."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dti_repro.errors import InputError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff")
HEIF_SUFFIXES = (".heic", ".heif")
OTHER_SUFFIXES = (".gif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw")
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
"""The decoders that may read a photo, whatever its name is: Pillow has others, and the one of PostScript runs
Ghostscript."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
"""The bytes 8 to 11 of a HEIC file (ISO 23008-12, annex B), which phones also send with the name .jpg."""
MAX_LISTED = 8  # files in a message
PANORAMA = 2.5  # from this ratio of its sides on, a square keeps less than two fifths of a photo


def list_photos(folder: Path) -> tuple[Path, ...]:
    """Return the image files of a folder, sorted by name. Print which other files are not used, and why; hidden files
    are not named. InputError if there is no image."""
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"image folder {folder} cannot be read ({error.strerror})") from error
    suffixes = SUFFIXES + HEIF_SUFFIXES if find_spec("pillow_heif") else SUFFIXES
    photos = [path for path in entries if path.suffix.lower() in suffixes and path.is_file()]
    captioned = {path.stem for path in photos}
    others = [path for path in entries if path not in photos]
    captions = [path for path in others if path.suffix == ".txt" and path.stem in captioned]
    ignored = [f"{path.name} ({_why_ignored(path)})" for path in others if path not in captions]
    if not photos:
        found = f"; ignored: {listed(ignored)}" if ignored else ""
        raise InputError(f"image folder {folder} holds no image ({' '.join(suffixes)}){found}")
    if others:
        _print_line(
            f"{folder.resolve().name}: {_count(len(photos), 'photo')} used"
            + (f", {_count(len(captions), 'caption')} (for templates=captions)" if captions else "")
            + (f", {_count(len(ignored), 'file')} ignored: {listed(ignored)}" if ignored else "")
        )
    return tuple(photos)


def _why_ignored(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir():
        return "a folder"
    if suffix in HEIF_SUFFIXES:
        return "install pillow-heif"
    if suffix == ".gif" and _frames(path) > 1:
        return "animated: save one frame as png"
    return "save it as jpg or png" if suffix in OTHER_SUFFIXES else "not an image"


def warn_about_photos(name: str, photos: Iterable[Path], size: int, whole: bool = False) -> None:
    """Print one line about the photos of a concept that are animated, panoramas or smaller than the training's image.

    size: the side of the training's image in pixels. whole: photos are not cropped to squares.
    """
    odd = []
    for path in photos:
        with _opened(path) as image:
            width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
        found = []
        if (frames := _frames(path)) > 1:
            found.append(f"{frames} frames, of which the first is used")
        if max(width, height) >= PANORAMA * min(width, height) and not whole:
            found.append(f"a panorama of {width} x {height} pixels, which a square shows little of")
        if width * height < size * size if whole else min(width, height) < size:
            found.append(f"{width} x {height} pixels, enlarged for a training at {size}")
        if found:
            odd.append(f"{path.name} ({'; '.join(found)})")
    if odd:
        _print_line(f"{name}: look at {listed(odd)}")


def _frames(path: Path) -> int:
    """Return the number of frames of an image file; 1 for a file of several pages, and for one that cannot be read."""
    try:
        with Image.open(path, formats=("GIF", "WEBP", "AVIF", "PNG")) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # the decoder that reads the photo says what is wrong with it
        return 1


def _orientation(image: Image.Image) -> int:
    """Return how a photo is turned as EXIF says, 1 to 8; 1 (not at all) where nothing readable says it."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # PIL's reader of EXIF raises SyntaxError, struct.error, KeyError, ...
        return 1
    return found if type(found) is int and 1 <= found <= 8 else 1


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, with commas, and the number of the others."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _print_line(line: str) -> None:
    print(one_line(line), file=sys.stderr)


def load_photo(path: Path) -> Image.Image:
    """Return the photo as an upright RGB image; what is transparent becomes white. InputError that names the file if it
    cannot be decoded to its end."""
    try:
        with _opened(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image) if _orientation(image) > 1 else image)
    except InputError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError, OverflowError, ...
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"not an image of the formats {', '.join(FORMATS)}" if unknown else str(error)
        if isinstance(error, Image.DecompressionBombError):
            reason = f"it has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels: make it smaller"
        raise InputError(f"image {path} cannot be read: {reason}") from error


def _opened(path: Path) -> Image.Image:
    """Return the image file, not yet decoded. InputError for one that is not there and for HEIC without its decoder;
    PIL's errors."""
    if not path.is_file():
        raise InputError(f"image {path} does not exist")
    with path.open("rb") as file:
        head = file.read(12)
    formats = FORMATS
    if head[4:8] == b"ftyp" and (head[8:] in HEIF_BRANDS or path.suffix.lower() in HEIF_SUFFIXES):
        if not find_spec("pillow_heif"):
            raise InputError(f"image {path} is a HEIC file: install pillow-heif, or save it as jpg or png")
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = ("HEIF",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a phone of 108 megapixels is no attack
        return Image.open(path, formats=formats)


def check_names_differ(concept: str, photos: Sequence[Path]) -> None:
    """Raise InputError for two photos that would have the same caption or mask."""
    if len({photo.stem for photo in photos}) < len(photos):
        raise InputError(f"two photos of {concept} differ in their suffix only: rename one")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion clips 16 bits at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
