"""Single pictures, each at an address of its own. No digest of them is published: they are checked by decoding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import requests
from PIL import Image
from rich.console import Console
from rich.progress import track

from dti_repro.concepts.fetching import fetch
from dti_repro.concepts.photos import FORMATS, check_photos, list_photos, load_photo
from dti_repro.concepts.sources.source import Fetched, Source
from dti_repro.errors import InputError
from dti_repro.results.run import check_name

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class Links(Source):
    """One picture for each concept, at `<concept>/00.<jpg, png or webp>`.

    links: concept -> address. A concept whose folder has a whole picture is left alone, so that one saved by hand
    counts.
    """

    def __init__(self, links: Mapping[str, str]) -> None:
        self.links = {check_name(name, "concept"): url for name, url in links.items()}

    def fetch(self, folder: Path, session: requests.Session, progress: bool) -> Fetched:
        came, missing = 0, []
        for name, url in track(self.links.items(), "fetching", console=Console(stderr=True), disable=not progress):
            if _has_picture(folder / name):
                continue
            try:
                _fetch_picture(session, url, folder / name)
                came += 1
            except InputError as error:
                missing.append(f"{error}; or save the picture by hand in {folder / name}/")
        return Fetched(len(self.links), came, missing)


def _has_picture(folder: Path) -> bool:
    try:
        check_photos(list_photos(folder))
    except InputError:
        return False
    return True


def _fetch_picture(session: requests.Session, url: str, folder: Path) -> None:
    """The suffix is known only when the picture is there."""
    unnamed = folder / ".picture"
    fetch(session, url, unnamed, _check_picture, resume=False)
    with Image.open(unnamed, formats=FORMATS) as image:
        suffix = SUFFIXES[image.format]
    unnamed.replace(folder / f"00{suffix}")


def _check_picture(path: Path) -> None:
    try:
        load_photo(path)
    except InputError as error:
        raise InputError("what came is no picture that can be read") from error
    with Image.open(path, formats=FORMATS) as image:
        if image.format not in SUFFIXES:
            raise InputError(f"what came is {image.format}, not one of {', '.join(SUFFIXES)}")
