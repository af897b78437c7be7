"""Labelled grids of images, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dti_repro.artifacts.files import atomic_write

CELL = 144  # px an image is enlarged to: three times the toybox's 48
GAP = 6
MARGIN = 12
FONT = 15
LINE = FONT + 3
TITLE_WIDTH = 18  # characters that fit above a cell


@dataclass(frozen=True)
class Grid:
    """Rows of images under shared column titles. The reference photos, if any, are a row of their own on top."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[Image.Image]]
    references: Sequence[Image.Image] = ()
    title: str = ""

    def save(self, path: Path, *, wrap: int = 8) -> Path:
        """Write a PNG and return its path. More than `wrap` columns continue in a further band below.

        ValueError for a row that has not one image for each column.
        """
        for name, images in self.rows.items():
            if len(images) != len(self.columns):
                raise ValueError(f"row {name}: {len(images)} images for {len(self.columns)} columns")
        with atomic_write(path) as temporary:
            self._draw(wrap).save(temporary, format="PNG")
        return path

    def _draw(self, wrap: int) -> Image.Image:
        font = ImageFont.load_default(FONT)
        across = min(wrap, max(len(self.columns), len(self.references)))
        labels = [*self.rows, "references"] if self.references else [*self.rows]
        left = MARGIN + max(int(font.getlength(label)) for label in labels) + GAP
        width = left + across * (CELL + GAP) + MARGIN

        def titles(texts: Sequence[str]) -> Image.Image:
            wrapped = [textwrap.fill(text, TITLE_WIDTH) for text in texts]
            lines = max(text.count("\n") + 1 for text in wrapped)
            strip = Image.new("RGB", (width, lines * LINE + 2 * GAP), "white")
            for i, text in enumerate(wrapped):
                ImageDraw.Draw(strip).multiline_text((left + i * (CELL + GAP), GAP), text, "black", font, spacing=2)
            return strip

        def row(label: str, images: Sequence[Image.Image]) -> Image.Image:
            strip = Image.new("RGB", (width, CELL + GAP), "white")
            ImageDraw.Draw(strip).text((MARGIN, CELL // 2), label, "black", font, anchor="lm")
            for i, image in enumerate(images):
                strip.paste(_enlarge(image), (left + i * (CELL + GAP), 0))
            return strip

        strips = []
        if self.title:
            strips.append(Image.new("RGB", (width, LINE + 2 * GAP), "white"))
            ImageDraw.Draw(strips[0]).text((MARGIN, 0), self.title, "black", ImageFont.load_default(LINE))
        for start in range(0, len(self.references), across):
            strips.append(row("" if start else "references", self.references[start : start + across]))
        for start in range(0, len(self.columns), across):
            strips.append(titles(self.columns[start : start + across]))
            strips += [row(name, images[start : start + across]) for name, images in self.rows.items()]
        return ImageOps.expand(Image.fromarray(np.concatenate(strips)), (0, MARGIN), "white")


def _enlarge(image: Image.Image) -> Image.Image:
    """Fit an image into a cell: small ones by whole pixels, so that nothing is invented, others smoothly."""
    image = image.convert("RGB")
    if CELL % image.width == 0 and image.width == image.height:
        return image.resize((CELL, CELL), Image.Resampling.NEAREST)
    return ImageOps.pad(image, (CELL, CELL), Image.Resampling.LANCZOS, color="white")
