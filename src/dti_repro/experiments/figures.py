"""Pictures for people: labelled grids of images, and lines over training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dti_repro.artifacts.files import atomic_write

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CELL = 144  # px an image is enlarged to: three times the toybox's 48
GAP = 6
MARGIN = 12
FONT = 15


@dataclass(frozen=True)
class Grid:
    """Rows of images under shared column titles; the references, if any, are a row of their own on top."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[Image.Image]]
    references: Sequence[Image.Image] = ()
    title: str = ""

    def save(self, path: Path, *, wrap: int = 8) -> Path:
        """Write a PNG. Where there are more than `wrap` columns, the grid goes on in a further band below.

        Raises ValueError where a row has not one image for each column.
        """
        for name, images in self.rows.items():
            if len(images) != len(self.columns):
                raise ValueError(f"row {name}: {len(images)} images for {len(self.columns)} columns")
        return _save(self._draw(wrap), path)

    def _draw(self, wrap: int) -> Image.Image:
        font = ImageFont.load_default(FONT)
        across = min(wrap, max(len(self.columns), len(self.references)))
        labels = [*self.rows, "references"] if self.references else [*self.rows]
        left = MARGIN + max(int(font.getlength(label)) for label in labels) + GAP
        canvas = Image.new("RGB", (left + across * (CELL + GAP) + MARGIN, 10_000), "white")
        draw = ImageDraw.Draw(canvas)
        y = MARGIN
        if self.title:
            draw.text((MARGIN, y), self.title, "black", ImageFont.load_default(FONT + 3))
            y += FONT + 3 + 2 * GAP
        for start in range(0, len(self.references), across):
            label = "references" if start == 0 else ""
            y = _row(canvas, y, left, label, self.references[start : start + across], font)
        for start in range(0, len(self.columns), across):
            titles = [_wrap(text, font, CELL) for text in self.columns[start : start + across]]
            height = max(title.count("\n") + 1 for title in titles) * (FONT + 3)
            y += GAP
            for i, title in enumerate(titles):
                draw.multiline_text((left + i * (CELL + GAP), y), title, "black", font, spacing=2)
            y += height + GAP
            for name, images in self.rows.items():
                y = _row(canvas, y, left, name, images[start : start + across], font)
        return canvas.crop((0, 0, canvas.width, y + MARGIN))


def save_lines(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    level: tuple[str, float] | None = None,
    log_y: bool = False,
) -> Path:
    """Write a PNG of named lines (x values, y values); `level` is a named horizontal line to compare with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name, linewidth=1.8)
    if level is not None:
        axes.axhline(level[1], color="grey", linestyle="--", linewidth=1, label=level[0])
    axes.set(xlabel=x_label, ylabel=y_label, title=title, yscale="log" if log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)
    return path


def _row(canvas: Image.Image, y: int, left: int, label: str, images: Sequence[Image.Image], font: FreeTypeFont) -> int:
    """Draw one row from (left, y) with its label centred beside it; returns the y below it."""
    ImageDraw.Draw(canvas).text((MARGIN, y + CELL // 2), label, "black", font, anchor="lm")
    for i, image in enumerate(images):
        canvas.paste(_enlarge(image), (left + i * (CELL + GAP), y))
    return y + CELL + GAP


def _enlarge(image: Image.Image) -> Image.Image:
    """Fitted into a cell: small images by whole pixels, so that nothing is invented; others smoothly."""
    image = image.convert("RGB")
    if CELL % image.width == 0 and image.width == image.height:
        return image.resize((CELL, CELL), Image.Resampling.NEAREST)
    return ImageOps.pad(image, (CELL, CELL), Image.Resampling.LANCZOS, color="white")


def _wrap(text: str, font: FreeTypeFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(line for line in lines if line)


def _save(image: Image.Image, path: Path) -> Path:
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path
