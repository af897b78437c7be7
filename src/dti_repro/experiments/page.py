"""report.html: an experiment's tables, its front and its pictures side by side, in one file that needs no other.

Prompts, labels and notes are text and never markup: jinja2 escapes whatever is put in, and the page forbids itself
scripts and anything from elsewhere. Imports no torch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dti_repro.artifacts.files import atomic_write
from dti_repro.data.photos import load_photo

TEMPLATE = "report.html"
SIDE = 160  # px; larger pictures are shown as thumbnails of this size
QUALITY = 90
MOST = 8  # subjects whose pictures are shown: a page of all may be hundreds of megabytes


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph (`code` in backticks) and a table, whose first line is its header."""

    title: str
    text: str
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sheet:
    """The pictures of one subject, or of several in one picture."""

    subject: str
    references: Sequence[Path]
    pictures: Mapping[str, Mapping[str, Path]]  # prompt -> row's name -> picture


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    front: Path,
    sheets: Sequence[Sheet],
    labels: Mapping[str, str],
) -> None:
    """Write the page; equal inputs give equal bytes. labels: a row's name -> its title. InputError for a picture that
    cannot be read."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thumbnail"] = _thumbnail
    page = environment.get_template(TEMPLATE).render(
        title=title,
        sections=sections,
        notes=notes,
        front=_data("png", front.read_bytes()),
        sheets=sheets[:MOST],
        left_out=len(sheets[MOST:]),
        labels=labels,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


class Thumbnail(NamedTuple):
    source: str
    small: bool  # shown enlarged: by whole pixels, so that nothing is invented


def _thumbnail(path: Path) -> Thumbnail:
    image = load_photo(path)
    small = max(image.size) < SIDE
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY)
    return Thumbnail(_data("webp", buffer.getvalue()), small)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
