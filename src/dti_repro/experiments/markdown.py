"""Tables as Markdown. Imports no pandas, for commands that answer within a second."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a GitHub table; the first line is its header. Bars in cells are escaped, line breaks become spaces."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    padded = [map(str.ljust, line, widths) for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)
