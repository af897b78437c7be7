"""Captions of photos, `rex.txt` beside `rex.jpg`: each is the training's prompt template for its own photo."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from dti_repro.artifacts.files import read_regular
from dti_repro.data.concept import Concept
from dti_repro.data.photos import check_names_differ
from dti_repro.errors import InputError

CAPTIONS = "captions"
"""The value of templates.prompts that asks for them."""
MAX_BYTES = 1 << 16  # of a file: a text encoder reads a few hundred words


def with_captions(concept: Concept) -> Concept:
    """Return the concept with a template for each of its photos. The learned word replaces `{}`, or the placeholder, of
    a caption, and comes before a caption that has neither: `<rex>, a dog on a sofa`.

    InputError for a photo without a caption, and for a caption that is no template.
    """
    files = [photo.with_suffix(".txt") for photo in concept.images]
    check_names_differ(concept.name, concept.images)
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(
            f"templates=captions: {len(missing)} of the {len(files)} photos of {concept.name} have no caption, such as "
            f"{missing[0]}: write what the photo shows into this file"
        )
    return replace(concept, captions=tuple(_template(file, concept.placeholder) for file in files))


def _template(file: Path, placeholder: str) -> str:
    try:
        text = " ".join(read_regular(file, MAX_BYTES).decode("utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"caption {file} cannot be read ({error}): save it as text in UTF-8") from error
    if not text:
        raise InputError(f"caption {file} is empty: write what the photo shows into it")
    template = text.replace(placeholder, "{}")
    if "{}" not in template:
        template = f"{{}}, {template}"
    if template.count("{}") > 1:
        raise InputError(f"caption {file} has the word {template.count('{}')} times: write {{}} once, or not at all")
    if unknown := re.findall(r"<[^<>\s]+>", template):
        raise InputError(f"caption {file} has {unknown[0]}, which is no word of this training: remove it")
    return template
