"""The published configs of backbones, one yaml each. Imports no torch."""

from pathlib import Path

FOLDER = Path(__file__).parent


def published_file(name: str) -> Path | None:
    """Return the yaml of a backbone, None if there is none."""
    file = FOLDER / f"{name}.yaml"
    return file if file.is_file() else None
